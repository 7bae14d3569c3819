/* exp, tanh and sigmoid of one number, written so that the compiler turns a loop over them into
 * vectors: no branch, no call. Included by level.h, once for each `real`.
 *
 * All three come from e^r - 1 = r + r^2/2! + r^3/3! + ... (Taylor's series, cut off where it no
 * longer changes the sum for |r| <= log(2)/2) and x = n log(2) + r (the usual reduction, e.g.
 * Muller, Elementary Functions, chapter 11; log(2) in two parts after Cody and Waite).
 *
 * Largest errors. float, of all 2^32 numbers, with and without fused multiply-add (tests/
 * test_engine.py looks at these places and at every 997th number):
 *   tanh     1.49e-7 absolute, at -4.50509071
 *   sigmoid  8.93e-8 absolute, at 7.85921097
 *   exp      9.00e-8 relative, at -5.8911829 (8.76e-8 at 26.6889019 without FMA); where the
 *            result is denormal, no more than 2e-7 times the smallest normal number
 * double, in units in the last place, of 10^7 numbers: tanh 2.6, sigmoid 2.4, exp 1.0.
 * NaN stays NaN, infinities saturate.
 */

#if REAL_BITS == 32
#define BITS int32_t
#define UNSIGNED_BITS uint32_t
#define LOG2_E 1.44269504f
#define LOG_2_HIGH 0.693359375f             /* 9 bits: n times it is exact */
#define LOG_2_LOW -2.12194440e-4f
#define ROUNDER 12582912.0f                 /* 1.5 * 2^23: adding it rounds to whole numbers */
#define MANTISSA 23
#define EXPONENT_BIAS 127
#define EXP_LOW -104.0f                     /* e^x is 0 from here down, */
#define EXP_HIGH 89.0f                      /* infinite from here up */
#define SIGMOID_LIMIT 87.0f                 /* e^x and e^-x are normal numbers up to here */
#define TANH_ONE 9.1f                       /* tanh is 1 from here on, after rounding */
#elif REAL_BITS == 64
#define BITS int64_t
#define UNSIGNED_BITS uint64_t
#define LOG2_E 1.4426950408889634
#define LOG_2_HIGH 0.6931471803691238
#define LOG_2_LOW 1.9082149292705877e-10
#define ROUNDER 6755399441055744.0          /* 1.5 * 2^52 */
#define MANTISSA 52
#define EXPONENT_BIAS 1023
#define EXP_LOW -746.0
#define EXP_HIGH 710.0
#define SIGMOID_LIMIT 708.0
#define TANH_ONE 19.1
#else
#error "exp, tanh and sigmoid of this number format are missing"
#endif

/* 2^n, n being within the exponents of normal numbers, or anything where x was NaN */
static inline real FN(power_of_2)(BITS n)
{
    union { UNSIGNED_BITS bits; real value; } x = {(UNSIGNED_BITS)(n + EXPONENT_BIAS) << MANTISSA};
    return x.value;
}

/* e^r - 1 and n, with x = n log(2) + r */
static inline real FN(reduced_expm1)(real x, BITS *n)
{
    union { real value; BITS bits; } shifted = {x * (real)LOG2_E + (real)ROUNDER},
                                     rounder = {(real)ROUNDER};
    const real whole = shifted.value - (real)ROUNDER;
    const real r = (x - whole * (real)LOG_2_HIGH) - whole * (real)LOG_2_LOW;
    *n = shifted.bits - rounder.bits;
#if REAL_BITS == 32
    real p = (real)(1 / 5040.0);
#else
    real p = (real)(1 / 6227020800.0);      /* 13! */
    p = p * r + (real)(1 / 479001600.0);
    p = p * r + (real)(1 / 39916800.0);
    p = p * r + (real)(1 / 3628800.0);
    p = p * r + (real)(1 / 362880.0);
    p = p * r + (real)(1 / 40320.0);
    p = p * r + (real)(1 / 5040.0);
#endif
    p = p * r + (real)(1 / 720.0);
    p = p * r + (real)(1 / 120.0);
    p = p * r + (real)(1 / 24.0);
    p = p * r + (real)(1 / 6.0);
    p = p * r + (real)(1 / 2.0);
    return p * r * r + r;
}

/* In this order a NaN stays, since it compares false. */
static inline real FN(clamped)(real x, real low, real high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

static inline real FN(exp)(real x)
{
    BITS n;
    const real p = FN(reduced_expm1)(FN(clamped)(x, EXP_LOW, EXP_HIGH), &n);
    const BITS half = n >> 1;               /* in two steps, since 2^n may be no normal number */
    return (p + 1) * FN(power_of_2)(half) * FN(power_of_2)(n - half);
}

/* 1 / (1 + e^-x); beyond the clamps it differs from 0 and 1 by less than a rounding error of 1 */
static inline real FN(sigmoid)(real x)
{
    BITS n;
    const real limit = SIGMOID_LIMIT;
    const real p = FN(reduced_expm1)(FN(clamped)(-x, -limit, limit), &n);
    return 1 / (1 + (p + 1) * FN(power_of_2)(n));
}

/* (e^2x - 1) / (e^2x + 1), where e^2x - 1 = 2^n (e^r - 1) + (2^n - 1) loses nothing near 0 */
static inline real FN(tanh)(real x)
{
    BITS n;
    const real p = FN(reduced_expm1)(2 * FN(clamped)(x, -TANH_ONE, TANH_ONE), &n);
    const real scale = FN(power_of_2)(n);
    const real expm1 = scale * p + (scale - 1);
    return expm1 / (expm1 + 2);
}

#define DEFINE_MAP(NAME)                                                                          \
    static void FN(map_##NAME)(ptrdiff_t n, const void *in, void *out)                            \
    {                                                                                             \
        const real *x = in;                                                                       \
        real *y = out;                                                                            \
        for (ptrdiff_t j = 0; j < n; j++)                                                         \
            y[j] = FN(NAME)(x[j]);                                                                \
    }
DEFINE_MAP(tanh)
DEFINE_MAP(sigmoid)
DEFINE_MAP(exp)

#undef BITS
#undef UNSIGNED_BITS
#undef LOG2_E
#undef LOG_2_HIGH
#undef LOG_2_LOW
#undef ROUNDER
#undef MANTISSA
#undef EXPONENT_BIAS
#undef EXP_LOW
#undef EXP_HIGH
#undef SIGMOID_LIMIT
#undef TANH_ONE
#undef DEFINE_MAP
