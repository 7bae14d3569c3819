/* What every processor of its kind has: SSE2 on x86-64, NEON on arm64. 8 of 16 registers are sums.
 */
#define LEVEL simd_baseline
#define LEVEL_NAME "baseline"
#define VECTOR_BYTES 16
#define TILE_ROWS 2
#include "level.h"
