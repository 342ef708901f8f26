/* 8-bit codes of slots, one element at a time. `random` is 16 random bits << 7. A block's scale is its largest
   magnitude. Encoding multiplies an element by `normal` first; decoding multiplies it by `unit` last.
   fastopt/arithmetic/quantize.py is the twin, and says how large the errors can be. */
#ifndef FO_QUANTIZE_H
#define FO_QUANTIZE_H

#include <math.h>
#include <stdint.h>

#include "convert.h"

/* The least scale of a block that is not all 0: the reciprocal of a smaller one would be infinite. */
#define FO_LEAST_SCALE 0x1p-110f

/* The signed code is the sign and 7 bits of the magnitude as a float: the magnitude + 2 lies between 2 and 2**16, with
   8 steps per octave. The bits of 2.0f are a 0, a 1, and zeros, so that the 7 bits of the code follow the first 5. */
#define FO_SIGNED_LARGEST 65534.0f
#define FO_SIGNED_FIRST 0x40000000u

static inline uint8_t fo_signed_encode(float x, float normal, uint32_t random)
{
    const uint32_t bits = fo_bits_from_float(x * normal);
    const float magnitude = fo_float_from_bits(bits & 0x7fffffff) + 2.0f;
    const uint32_t rounded = fo_bits_from_float(magnitude) + (random >> 3);
    return (uint8_t)((rounded | (bits >> 4 & 0x08000000)) >> 20);
}

static inline float fo_signed_decode(uint8_t code, float unit)
{
    /* Move the sign to the first bit, and the other 7 after the fifth. */
    const uint32_t spread = (uint32_t)(int32_t)(int8_t)code << 20 & 0x87f00000;
    const uint32_t bits = spread | FO_SIGNED_FIRST;
    return (fo_float_from_bits(bits) - fo_float_from_bits(bits & 0xc0000000)) * unit;
}

/* The root code stands for code**2, up to 255**2. Only 0 has the code 0. The largest normal is a little smaller, so
   that no rounding error makes 256 of it. */
#define FO_ROOT_LARGEST 65025.0f
#define FO_ROOT_LARGEST_NORMAL 65024.984375f
#define FO_ONE 0x3f800000 /* the bits of 1.0f */

static inline uint8_t fo_root_encode(float x, float normal, uint32_t random)
{
    /* Floats that are not negative sort as their bits do. */
    const int32_t bits = (int32_t)fo_bits_from_float(x), scaled = (int32_t)fo_bits_from_float(x * normal);
    const float square = fo_float_from_bits((uint32_t)(scaled > FO_ONE ? scaled : FO_ONE));
    const float uniform = fo_float_from_bits(FO_ONE ^ random) - 1.0f;
    /* Round up to code + 1 with the probability that keeps the mean, (square - code**2) / (2 * code + 1):
       sqrt(square - u (1 - u)) + u >= code + 1 where square - code**2 >= (1 - u) (2 * code + 1). */
    const int32_t code = (int32_t)(sqrtf((square - uniform) + uniform * uniform) + uniform);
    /* The bits of 0 are 0, and those of any other float are above every code. This is a variable because GCC makes two
       instructions of it otherwise. */
    const int32_t at_most = code < bits ? code : bits;
    return (uint8_t)at_most;
}

static inline float fo_root_decode(uint8_t code, float unit)
{
    const float root = (float)(int32_t)code;
    return root * root * unit;
}

#endif
