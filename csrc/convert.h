/* Conversions of one element to and from half precision. They have no branches, so that the loops around them
   vectorise. They round to the nearest, ties to even; numbers that are too large become infinite; NaN stays NaN.
   fastopt/arithmetic/halves.py is the twin. */
#ifndef FO_CONVERT_H
#define FO_CONVERT_H

#include <stdint.h>
#include <string.h>

#include "compiler.h"

static inline float fo_float_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t fo_bits_from_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float fo_float16_to_float32(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = (uint32_t)(half & 0x7fff) << 13;
    /* Multiplying by 2**112 moves the exponent's bias from 15 to 127, and also normalises denormals. */
    const uint32_t scaled = fo_bits_from_float(fo_float_from_bits(magnitude) * 0x1p112f);
    const uint32_t is_special = -(uint32_t)(magnitude >= 0x0f800000);
    return fo_float_from_bits(sign | scaled | (is_special & 0x7f800000));
}

static inline float fo_bfloat16_to_float32(uint16_t bits)
{
    return fo_float_from_bits((uint32_t)bits << 16);
}

static inline uint16_t fo_float32_to_float16(float x)
{
    const uint32_t bits = fo_bits_from_float(x), magnitude = bits & 0x7fffffff;
    /* Move the exponent's bias from 127 to 15. A mantissa that is rounded up carries into the exponent, as it
       should. */
    const uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    /* Adding 0.5 to a number below 2**-14 rounds it to the bits that a denormal has. */
    const uint32_t denormal = fo_bits_from_float(fo_float_from_bits(magnitude) + 0.5f) - fo_bits_from_float(0.5f);
    const uint32_t special = 0x7c00 | (uint32_t)(magnitude > 0x7f800000) << 9;
    const uint32_t is_small = -(uint32_t)(magnitude < 0x38800000), is_special = -(uint32_t)(magnitude >= 0x47800000);
    const uint32_t finite = (denormal & is_small) | (normal & ~is_small);
    return (uint16_t)((bits >> 16 & 0x8000) | (finite & ~is_special) | (special & is_special));
}

static inline uint16_t fo_float32_to_bfloat16(float x)
{
    const uint32_t bits = fo_bits_from_float(x);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    const uint32_t is_nan = -(uint32_t)((bits & 0x7fffffff) > 0x7f800000);
    return (uint16_t)(((rounded & ~is_nan) | ((bits | 0x400000) & is_nan)) >> 16);
}

/* Round up with the probability that keeps the mean. `random` is 16 random bits << 7. */
static inline uint16_t fo_float32_to_bfloat16_dithered(float x, uint32_t random)
{
    const uint32_t bits = fo_bits_from_float(x), rounded = bits + (random >> 7);
    const uint32_t is_nan = -(uint32_t)((bits & 0x7fffffff) > 0x7f800000);
    return (uint16_t)(((rounded & ~is_nan) | ((bits | 0x400000) & is_nan)) >> 16);
}

#endif
