/* exp, tanh and sigmoid of one number, written so that the compiler turns a loop over them into
 * vectors: no branch, no call. Included by level.h, once for each `real`.
 *
 * All three come from x = n log(2) + r (the usual reduction, e.g. Muller, Elementary Functions,
 * chapter 11; log(2) in two parts after Cody and Waite) and a polynomial for e^r - 1, |r| <=
 * log(2)/2. Polynomials are minimax, by Remez's exchange algorithm in 60 digits; coefficients were
 * rounded one by one, the lowest first, and those above fitted anew. What is beyond the range of a
 * function is computed like the rest, and replaced at the end.
 *
 * Largest errors, in units in the last place of the exact result. float, of all 2^32 numbers, with
 * fused multiply-add (AVX2, AVX-512) and without (tests/test_engine.py looks at these places and at
 * every 997th number):
 *   tanh      0.964 at 0.692524672     0.964 at 0.692524672
 *   sigmoid   0.962 at -5.19911861     0.972 at -26.7120171
 *   exp       0.990 at -5.86446524     0.962 at -5.86976576
 * and where the result is denormal, in units of 2^-149:
 *   sigmoid   0.886 at -87.6975479     0.908 at -87.7071228
 *   exp       0.759 at -87.701004      0.751 at -87.3373566
 * double, of 3 * 10^7 numbers: tanh 2.6, sigmoid 1.04, exp 1.0.
 * And log(1 + e^x) for x <= 0, of 4 * 10^4 numbers in either format: 3 (tests/test_losses.py).
 * NaN stays NaN, infinities saturate, tanh(-x) is -tanh(x), -0 included.
 */

#if REAL_BITS == 32
#define BITS int32_t
#define UNSIGNED_BITS uint32_t
#define LOG2_E 1.44269504f
#define LOG_2 0.693147182f                  /* 20 bits, by luck: n times it is exact for tanh */
#define LOG_2_HIGH 0.693359375f             /* 9 bits: n times it is exact */
#define LOG_2_LOW -2.12194440e-4f
#define ROUNDER 12582912.0f                 /* 1.5 * 2^23: adding it rounds to whole numbers */
#define MANTISSA 23
#define EXPONENT_BIAS 127
#define EXP_LOW -104.0f                     /* e^x and sigmoid are 0 from here down, */
#define EXP_HIGH 89.0f                      /* e^x is infinite from here up */
#define SHIFT 64                            /* e^-EXP_LOW / 2^SHIFT is a normal number */
#define TANH_SMALL 0.69f
#define TANH_ONE 9.1f                       /* tanh is 1 from here on, after rounding */
#define fma_f32 fmaf
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
#define SHIFT 512
#define TANH_ONE 19.1
#define fma_f64 fma
#else
#error "exp, tanh and sigmoid of this number format are missing"
#endif
#define SIGMOID_ONE 40                      /* sigmoid is 1 from here on */

static inline UNSIGNED_BITS FN(bits_of)(real value)
{
    union { real value; UNSIGNED_BITS bits; } x = {value};
    return x.bits;
}

static inline real FN(of_bits)(UNSIGNED_BITS bits)
{
    union { UNSIGNED_BITS bits; real value; } x = {bits};
    return x.value;
}

/* 2^n, n being within the exponents of normal numbers: the last bits of `bits` are n + bias. */
static inline real FN(power_of_2)(UNSIGNED_BITS bits)
{
    return FN(of_bits)(bits << MANTISSA);
}

/* x by, rounded to a whole number n; the last bits of `bits` become n + plus. */
static inline real FN(whole)(real x, real by, int plus, UNSIGNED_BITS *bits)
{
    const real rounder = (real)ROUNDER + plus, sum = x * by + rounder;
    *bits = FN(bits_of)(sum);
    return sum - rounder;
}

/* e^r - 1 = r + r^2 g(r) for |r| <= log(2)/2 */
static inline real FN(small_expm1)(real r)
{
    const real r2 = r * r;
#if REAL_BITS == 32
    /* e^r is off by 2^-27.4 of itself; by 2^-29 below -1/4, where it counts: errors there have
     * four times the weight. */
    const real g = ((1.36457081e-3f * r + 8.37137457e-3f) * r2
                    + (4.16720659e-2f * r + 0.166664988f)) * r + 0.499999762f;
#else
    real g = 2.5018425479056347e-8;         /* off by 2^-57.9 */
    g = g * r + 2.763069785360785e-7;
    g = g * r + 2.755753340607992e-6;
    g = g * r + 2.480149184509413e-5;
    g = g * r + 1.9841269559020902e-4;
    g = g * r + 1.388888894481235e-3;
    g = g * r + 8.333333333473929e-3;
    g = g * r + 4.166666666652586e-2;
    g = g * r + 0.16666666666666438;
    g = g * r + 0.5000000000000011;
#endif
    return r2 * g + r;
}

/* e^r - 1, with x = n log(2) + r; the last bits of `bits` become n + plus. */
static inline real FN(reduced_expm1)(real x, int plus, UNSIGNED_BITS *bits)
{
    const real whole = FN(whole)(x, LOG2_E, plus, bits);
    return FN(small_expm1)((x - whole * (real)LOG_2_HIGH) - whole * (real)LOG_2_LOW);
}

/* 2^n (1 + (e^r - 1)), in two steps, since 2^n may be no normal number */
static inline real FN(exp)(real x)
{
    UNSIGNED_BITS bits;
    const real p = FN(reduced_expm1)(x, 0, &bits);
    const BITS n = (BITS)(bits - FN(bits_of)((real)ROUNDER)), half = n >> 1;
    real e = (p + 1) * FN(power_of_2)((UNSIGNED_BITS)(half + EXPONENT_BIAS))
                     * FN(power_of_2)((UNSIGNED_BITS)(n - half + EXPONENT_BIAS));
    e = x < (real)EXP_LOW ? 0 : e;
    return x > (real)EXP_HIGH ? (real)INFINITY : e;
}

/* 1 - q d, exact but for a last rounding, q being a `factor`: any number where there is a fused
 * multiply-add; one of half as many digits elsewhere, where d is taken in halves (Dekker 1971).
 * And 1 - h^2, which loses nothing where h is near 1. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMA)
static inline real FN(factor)(real q)
{
    return q;
}

static inline real FN(remainder)(real q, real d)
{
    return FN(fma)(-q, d, 1);
}

static inline real FN(one_minus_square)(real h)
{
    return FN(fma)(-h, h, 1);
}
#else
static inline real FN(factor)(real q)
{
    return FN(of_bits)(FN(bits_of)(q) >> (MANTISSA + 2) / 2 << (MANTISSA + 2) / 2);
}

static inline real FN(remainder)(real q, real d)
{
    const real high = FN(factor)(d);
    return (1 - q * high) - q * (d - high);
}

static inline real FN(one_minus_square)(real h)
{
    return (1 - h) * (1 + h);
}
#endif

/* 1 / (1 + e^-x), where 1 + e^-x = 2^SHIFT (d + lost), `lost` being what rounding takes from d.
 * The quotient q is corrected by q (1 - q (d + lost)). */
static inline real FN(sigmoid)(real x)
{
    UNSIGNED_BITS bits;
    const real p = FN(reduced_expm1)(-x, EXPONENT_BIAS - SHIFT, &bits);
    const real one = FN(power_of_2)(EXPONENT_BIAS - SHIFT), scale = FN(power_of_2)(bits);
    const real d = scale * p + (scale + one), lost = scale * p + ((scale - d) + one);
    const real y = 1 / d, q = FN(factor)(y);
    real s = (q + y * (FN(remainder)(q, d) - q * lost)) * one;
    s = x < (real)EXP_LOW ? 0 : s;
    return x > SIGMOID_ONE ? 1 : s;
}

#if REAL_BITS == 32
/* With the sign of x: near 0, |x| + |x|^3 g(x^2); elsewhere 1 - 2/d, d = 1 + e^2|x|, written as
 * 3/4 + (d/4 - 2)/d, since d/4 - 2 is exact and what is rounded before the sum is small. As a whole
 * number NaN is beyond TANH_ONE; as a real number it is not beyond TANH_SMALL. */
static inline real FN(tanh)(real x)
{
    UNSIGNED_BITS bits;
    const BITS size = (BITS)(FN(bits_of)(x) & INT32_MAX), most = (BITS)FN(bits_of)(TANH_ONE);
    const real a = FN(of_bits)((UNSIGNED_BITS)size), a2 = a * a;
    const real b = FN(of_bits)((UNSIGNED_BITS)(size < most ? size : most));
    const real whole = FN(whole)(b, 2 * LOG2_E, EXPONENT_BIAS, &bits);
    const real scale = FN(power_of_2)(bits);
    const real d = scale * FN(small_expm1)(2 * b - whole * LOG_2) + (scale + 1);
    const real far = (d / 4 - 2) / d + 0.75f;
    real g = -5.20841777e-3f;               /* tanh is off by 2^-26.2 of itself */
    g = g * a2 + 2.01661736e-2f;
    g = g * a2 - 5.35857603e-2f;
    g = g * a2 + 0.133294895f;
    g = g * a2 - 0.333332062f;
    return copysignf(a > TANH_SMALL ? far : a * a2 * g + a, x);
}
#else
/* (e^2|x| - 1) / (e^2|x| + 1), where e^2|x| - 1 = 2^n (e^r - 1) + (2^n - 1) loses nothing near 0 */
static inline real FN(tanh)(real x)
{
    UNSIGNED_BITS bits;
    const real a = fabs(x), p = FN(reduced_expm1)(2 * a, EXPONENT_BIAS, &bits);
    const real scale = FN(power_of_2)(bits), expm1 = scale * p + (scale - 1);
    return copysign(a > TANH_ONE ? 1 : expm1 / (expm1 + 2), x);
}
#endif

/* log(1 + x) = 2 artanh(s), s = x / (2 + x), for 0 <= x <= 1, and so s <= 1/3: as many terms of
 * artanh(s) = s + s^3/3 + s^5/5 + ... as count. */
static inline real FN(small_log1p)(real x)
{
    const real s = x / (2 + x), s2 = s * s;
    real g = 0;
#define TERM(k) g = g * s2 + (real)1 / (k);
#if REAL_BITS == 64
    TERM(33) TERM(31) TERM(29) TERM(27) TERM(25) TERM(23) TERM(21) TERM(19) TERM(17)
#endif
    TERM(15) TERM(13) TERM(11) TERM(9) TERM(7) TERM(5) TERM(3) TERM(1)
#undef TERM
    return 2 * s * g;
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
#undef LOG_2
#undef LOG_2_HIGH
#undef LOG_2_LOW
#undef ROUNDER
#undef MANTISSA
#undef EXPONENT_BIAS
#undef EXP_LOW
#undef EXP_HIGH
#undef SHIFT
#undef SIGMOID_ONE
#undef TANH_SMALL
#undef TANH_ONE
#undef DEFINE_MAP
