/* Rounding to bf16, the upper half of a float32. */

static ALWAYS_INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/* To the nearest bf16 number, of two the one whose last bit is 0; NaN stays NaN, and becomes a quiet one;
 * denormal numbers are 0, as in every kernel. */
static ALWAYS_INLINE float rounded(float x)
{
    const uint32_t bits = bits_of(x), size = bits & 0x7fffffff;
    uint32_t result = bits + 0x7fff + (bits >> 16 & 1);
    result = size > 0x7f800000 ? bits | 0x400000 : size < 0x800000 ? 0 : result;
    result &= 0xffff0000;
    memcpy(&x, &result, sizeof(x));
    return x;
}
