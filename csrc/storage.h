/* Slots and parameters whose memory is not float32, the compute dtype. A block of them is converted on its way to the
   L1 cache, and back. Blocks begin at multiples of FO_SCALE_BLOCK. */
#ifndef FO_STORAGE_H
#define FO_STORAGE_H

#include <float.h>
#include <stdint.h>
#include <string.h>

#include "compiler.h"
#include "convert.h"
#include "dither.h"
#include "fastopt.h"
#include "quantize.h"

static void load_bfloat16(float *restrict out, const uint16_t *restrict stored, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        out[i] = fo_bfloat16_to_float32(stored[i]);
}

static inline void load_signed(float *restrict out, const uint8_t *restrict codes, float scale, int64_t length)
{
    const float unit = scale * (1.0f / FO_SIGNED_LARGEST);
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        out[i] = fo_signed_decode(codes[i], unit);
}

static inline void load_root(float *restrict out, const uint8_t *restrict codes, float scale, int64_t length)
{
    const float unit = scale * (1.0f / FO_ROOT_LARGEST);
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        out[i] = fo_root_decode(codes[i], unit);
}

static void store_float16(uint16_t *restrict stored, const float *restrict x, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        stored[i] = fo_float32_to_float16(x[i]);
}

static void store_bfloat16(uint16_t *restrict stored, const float *restrict x, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        stored[i] = fo_float32_to_bfloat16(x[i]);
}

static void store_bfloat16_dithered(uint16_t *restrict stored, const float *restrict x, uint32_t random, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        stored[i] = fo_float32_to_bfloat16_dithered(x[i], random ^ fo_dither[i]);
}

/* The result is infinite or NaN if an element is. */
static inline float largest_magnitude(const float *x, int64_t length)
{
    int32_t largest = 0;
    FO_SIMD_REDUCTION(max : largest)
    for (int64_t i = 0; i < length; i++) {
        const int32_t magnitude = (int32_t)(fo_bits_from_float(x[i]) & 0x7fffffff);
        largest = magnitude > largest ? magnitude : largest;
    }
    return fo_float_from_bits((uint32_t)largest);
}

static inline void store_signed(uint8_t *restrict codes, const float *restrict x, float scale, uint32_t random,
                                int64_t length)
{
    const float normal = FO_SIGNED_LARGEST / scale;
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        codes[i] = fo_signed_encode(x[i], normal, random ^ fo_dither[i]);
}

static inline void store_root(uint8_t *restrict codes, const float *restrict x, float scale, uint32_t random,
                              int64_t length)
{
    const float normal = FO_ROOT_LARGEST_NORMAL / scale;
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        codes[i] = fo_root_encode(x[i], normal, random ^ fo_dither[i]);
}

/* CALL(length), with the length of a whole block as a constant: then the compiler makes no loop for a remainder. */
#define WITH_LENGTH(length, CALL)     \
    do {                              \
        if (length == FO_SCALE_BLOCK) \
            CALL(FO_SCALE_BLOCK);     \
        else                          \
            CALL(length);             \
    } while (0)

static float scale_of(const float *restrict x, int64_t length)
{
    float scale;
#define LARGEST(n) scale = largest_magnitude(x, n)
    WITH_LENGTH(length, LARGEST);
    return scale > 0 && scale < FO_LEAST_SCALE ? FO_LEAST_SCALE : scale;
}

static void load_block(float *restrict out, const void *stored, const float *scales, int32_t dtype, int64_t begin,
                       int64_t length)
{
    if (dtype == FO_BFLOAT16) {
        load_bfloat16(out, (const uint16_t *)stored + begin, length);
        return;
    }
    const uint8_t *codes = (const uint8_t *)stored + begin;
    const float scale = scales[begin / FO_SCALE_BLOCK];
#define LOAD_SIGNED(n) load_signed(out, codes, scale, n)
#define LOAD_ROOT(n) load_root(out, codes, scale, n)
    if (dtype == FO_SIGNED8)
        WITH_LENGTH(length, LOAD_SIGNED);
    else
        WITH_LENGTH(length, LOAD_ROOT);
}

static void store_block(void *stored, const float *scales, int32_t dtype, const float *restrict x, uint64_t key,
                        int64_t begin, int64_t length)
{
    const int64_t block = begin / FO_SCALE_BLOCK;
    const uint32_t random = fo_dither_block(key, block);
    if (dtype == FO_BFLOAT16) {
        store_bfloat16_dithered((uint16_t *)stored + begin, x, random, length);
        return;
    }
    uint8_t *codes = (uint8_t *)stored + begin;
    const float scale = scales[block];
    if (!(scale > 0 && scale <= FLT_MAX)) {
        memset(codes, 0, (size_t)length);
        return;
    }
#define STORE_SIGNED(n) store_signed(codes, x, scale, random, n)
#define STORE_ROOT(n) store_root(codes, x, scale, random, n)
    if (dtype == FO_SIGNED8)
        WITH_LENGTH(length, STORE_SIGNED);
    else
        WITH_LENGTH(length, STORE_ROOT);
}

#endif
