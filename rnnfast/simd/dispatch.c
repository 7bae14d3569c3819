/* Which levels there are, and which of them can run here. */
#include "simd.h"

extern const simd_level rnnfast_baseline;
#ifdef RNNFAST_X86
extern const simd_level rnnfast_avx2, rnnfast_avx512;
#endif

const simd_level *const rnnfast_levels[] = {
    &rnnfast_baseline,
#ifdef RNNFAST_X86
    &rnnfast_avx2,
    &rnnfast_avx512,
#endif
    NULL,
};

int rnnfast_level_usable(const simd_level *level)
{
#ifdef RNNFAST_X86
    __builtin_cpu_init(); /* asks the processor (CPUID) and the operating system (XGETBV) */
    if (level == &rnnfast_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (level == &rnnfast_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
    return level == &rnnfast_baseline;
}
