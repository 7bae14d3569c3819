/* Rounding to bf16, the upper half of a float32. */

static ALWAYS_INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/* To the nearest bf16 number, of two the one whose last bit is 0; NaN stays NaN, and becomes a quiet
 * one. */
static ALWAYS_INLINE float rounded(float x)
{
    const uint32_t bits = bits_of(x), is_nan = (bits & 0x7fffffff) > 0x7f800000;
    const uint32_t result = (is_nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    float out;
    memcpy(&out, &result, sizeof(out));
    return out;
}
