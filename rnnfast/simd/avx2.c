/* AVX2 and FMA: 3 rows by 4 vectors are 12 sums of 16 registers. */
#define LEVEL simd_avx2
#define LEVEL_NAME "avx2"
#define VECTOR_BYTES 32
#define TILE_ROWS 3
#include "level.h"
