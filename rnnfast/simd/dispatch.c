/* Which levels there are, and which of them can run here. */
#include "simd.h"

extern const simd_level simd_baseline;
#ifdef RNNFAST_X86
extern const simd_level simd_avx2, simd_avx512, simd_avx512_bf16;
#endif

const simd_level *const simd_levels[] = {
    &simd_baseline,
#ifdef RNNFAST_X86
    &simd_avx2,
    &simd_avx512,
    &simd_avx512_bf16,
#endif
    NULL,
};

int simd_level_usable(const simd_level *level)
{
#ifdef RNNFAST_X86
    __builtin_cpu_init(); /* asks the processor (CPUID) and the operating system (XGETBV) */
    if (level == &simd_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (level == &simd_avx512_bf16 && !__builtin_cpu_supports("avx512bf16"))
        return 0;
    if (level == &simd_avx512 || level == &simd_avx512_bf16)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
    return level == &simd_baseline;
}

_Alignas(64) const char simd_zeros[SIMD_VECTORS * 64];

#define CELL(name, gates, together, reset) {#name, gates, together, reset},
const simd_cell simd_cells[SIMD_CELL_COUNT] = {SIMD_CELLS(CELL)};
