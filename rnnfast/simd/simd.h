/* What the compiled levels (baseline, AVX2, AVX-512) offer: one table of functions for each
 * instruction set and each of float and double. The engine (kernels/engine.pyx) calls nothing
 * else, and picks its tables once, when it is imported.
 *
 * Letters: L lanes, the reals in a vector; a panel is 4 vectors wide, so 4 L columns.
 */
#ifndef RNNFAST_SIMD_H
#define RNNFAST_SIMD_H

#include <stddef.h>

enum { RNNFAST_VECTORS = 4 };             /* vectors in a row of a panel */
enum { RNNFAST_RNN, RNNFAST_LSTM, RNNFAST_CELLS };
enum { RNNFAST_TANH, RNNFAST_SIGMOID, RNNFAST_EXP, RNNFAST_FUNCTIONS };

#define real float
#define SIMD_TABLE simd_f32
#include "table.h"
#undef real
#undef SIMD_TABLE

#define real double
#define SIMD_TABLE simd_f64
#include "table.h"
#undef real
#undef SIMD_TABLE

typedef struct {
    const char *name;
    const simd_f32 *f32;
    const simd_f64 *f64;
} simd_level;

/* The levels that this build has, from the lowest up; a null pointer ends the list. */
extern const simd_level *const rnnfast_levels[];

/* Whether processor and operating system can run the level (CPUID and XGETBV). */
int rnnfast_level_usable(const simd_level *level);

#endif
