/* Slots in 8 bits, for one element. A block's scale is its largest magnitude; x is the element over that, so at most 1.
   fastopt/quantize.py is the twin, and says what errors there can be. */
#ifndef FO_QUANTIZE_H
#define FO_QUANTIZE_H

#include <math.h>
#include <stdint.h>

#include "convert.h"

/* Signed: the sign, and 7 bits of the floating-point number |x| + 2**-15 (8 steps an octave): what a float's bits are,
   less those of 2**-15. */
#define FO_SIGNED_OFFSET 0x1p-15f
#define FO_SIGNED_OFFSET_BITS 0x38000000u
#define FO_SIGNED_LARGEST 120u

static inline uint8_t fo_signed_encode(float x, uint32_t random)
{
    const uint32_t bits = fo_bits_from_float(x);
    const float magnitude = fo_float_from_bits(bits & 0x7fffffff) + FO_SIGNED_OFFSET;
    const uint32_t code = (fo_bits_from_float(magnitude) - FO_SIGNED_OFFSET_BITS + (random >> 12)) >> 20;
    /* Not the sign bit itself: that of a NaN is not the same on every machine. */
    return (uint8_t)((code < FO_SIGNED_LARGEST ? code : FO_SIGNED_LARGEST) | (uint32_t)(x < 0) << 7);
}

static inline float fo_signed_decode(uint8_t code)
{
    const float magnitude =
        fo_float_from_bits(((uint32_t)(code & 0x7f) << 20) + FO_SIGNED_OFFSET_BITS) - FO_SIGNED_OFFSET;
    return fo_float_from_bits(fo_bits_from_float(magnitude) | (uint32_t)(code & 0x80) << 24);
}

/* Root: (code / 255)**2; what is not 0 has a code that is not 0. */
static inline uint8_t fo_root_encode(float x, uint32_t random)
{
    const uint32_t positive = fo_bits_from_float(x) & -(uint32_t)(x > 0);
    const float squares = fo_float_from_bits(positive) * 65025.0f;
    const int32_t root = (int32_t)sqrtf(squares), below = root < 254 ? root : 254;
    const float lower = (float)below;
    /* Up with the probability that keeps the mean: (squares - lower**2) / ((lower + 1)**2 - lower**2). */
    const float uniform = (float)(int32_t)(random >> 8) * 0x1p-24f;
    const int32_t code = below + (uniform * (2 * lower + 1) < squares - lower * lower);
    return (uint8_t)(code | ((code == 0) & (positive != 0)));
}

static inline float fo_root_decode(uint8_t code)
{
    const float root = (float)(int32_t)code;
    return root * root * (1.0f / 65025.0f);
}

#endif
