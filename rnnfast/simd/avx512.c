/* AVX-512: 6 rows by 4 vectors are 24 sums of 32 registers. */
#define LEVEL simd_avx512
#define LEVEL_NAME "avx512"
#define VECTOR_BYTES 64
#define TILE_ROWS 6
#include "level.h"
