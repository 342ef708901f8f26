/* Half-precision conversions of one element, without branches so that the loops around them vectorise. */
#ifndef FO_CONVERT_H
#define FO_CONVERT_H

#include <stdint.h>
#include <string.h>

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
    /* Multiplying by 2**112 moves the exponent's bias from 15 to 127, and normalises denormals on the way. */
    const uint32_t scaled = fo_bits_from_float(fo_float_from_bits(magnitude) * 0x1p112f);
    const uint32_t is_special = -(uint32_t)(magnitude >= 0x0f800000);
    return fo_float_from_bits(sign | scaled | (is_special & 0x7f800000));
}

static inline float fo_bfloat16_to_float32(uint16_t bits)
{
    return fo_float_from_bits((uint32_t)bits << 16);
}

#endif
