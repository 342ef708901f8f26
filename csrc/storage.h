/* Memory of another dtype than float32, which is computed in: blocks of slots and parameters on their way to the L1 cache
   and back. Blocks begin at multiples of FO_SCALE_BLOCK. */
#ifndef FO_STORAGE_H
#define FO_STORAGE_H

#include <float.h>
#include <stdint.h>

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
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        out[i] = fo_signed_decode(codes[i]) * scale;
}

static inline void load_root(float *restrict out, const uint8_t *restrict codes, float scale, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        out[i] = fo_root_decode(codes[i]) * scale;
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
    for (int32_t i = 0; i < (int32_t)length; i++)
        stored[i] = fo_float32_to_bfloat16_dithered(x[i], fo_dither(random, (uint32_t)i));
}

/* Infinite or NaN if an element is. */
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

/* What a block's elements are multiplied by, first and then, to be at most 1; twice, so that no reciprocal overflows. */
typedef struct {
    float first, then;
} fo_normal;

static fo_normal normal_of(float scale)
{
    const float first = scale < 0x1p-60f ? 0x1p100f : 1.0f;
    const fo_normal normal = {first, scale > 0 && scale <= FLT_MAX ? 1.0f / (scale * first) : 0.0f};
    return normal;
}

static inline void store_signed(uint8_t *restrict codes, const float *restrict x, fo_normal normal, uint32_t random,
                         int64_t length)
{
    FO_SIMD
    for (int32_t i = 0; i < (int32_t)length; i++)
        codes[i] = fo_signed_encode(x[i] * normal.first * normal.then, fo_dither(random, (uint32_t)i));
}

static inline void store_root(uint8_t *restrict codes, const float *restrict x, fo_normal normal, uint32_t random,
                       int64_t length)
{
    FO_SIMD
    for (int32_t i = 0; i < (int32_t)length; i++)
        codes[i] = fo_root_encode(x[i] * normal.first * normal.then, fo_dither(random, (uint32_t)i));
}

/* CALL(length) with the length of a whole block told to the compiler, which then has no remainder to think of. */
#define WITH_LENGTH(length, CALL)      \
    do {                               \
        if (length == FO_SCALE_BLOCK)  \
            CALL(FO_SCALE_BLOCK);      \
        else                           \
            CALL(length);              \
    } while (0)

static int64_t scale_block_end(int64_t at, int64_t length)
{
    return at + FO_SCALE_BLOCK < length ? at + FO_SCALE_BLOCK : length;
}

static void load_block(float *restrict out, const void *stored, const float *scales, int32_t dtype, int64_t begin,
                       int64_t length)
{
    if (dtype == FO_BFLOAT16) {
        load_bfloat16(out, (const uint16_t *)stored + begin, length);
        return;
    }
    for (int64_t at = 0, end; at < length; at = end) {
        end = scale_block_end(at, length);
        const uint8_t *codes = (const uint8_t *)stored + begin + at;
        const float scale = scales[(begin + at) / FO_SCALE_BLOCK];
#define LOAD_SIGNED(n) load_signed(out + at, codes, scale, n)
#define LOAD_ROOT(n) load_root(out + at, codes, scale, n)
        if (dtype == FO_SIGNED8)
            WITH_LENGTH(end - at, LOAD_SIGNED);
        else
            WITH_LENGTH(end - at, LOAD_ROOT);
    }
}

static void store_block(void *stored, float *scales, int32_t dtype, const float *restrict x, uint64_t key,
                        int64_t begin, int64_t length)
{
    for (int64_t at = 0, end; at < length; at = end) {
        const int64_t block = (begin + at) / FO_SCALE_BLOCK;
        const uint32_t random = fo_dither_block(key, block);
        end = scale_block_end(at, length);
        if (dtype == FO_BFLOAT16) {
            store_bfloat16_dithered((uint16_t *)stored + begin + at, x + at, random, end - at);
            continue;
        }
        uint8_t *codes = (uint8_t *)stored + begin + at;
#define LARGEST(n) scales[block] = largest_magnitude(x + at, n)
        WITH_LENGTH(end - at, LARGEST);
        const fo_normal normal = normal_of(scales[block]);
#define STORE_SIGNED(n) store_signed(codes, x + at, normal, random, n)
#define STORE_ROOT(n) store_root(codes, x + at, normal, random, n)
        if (dtype == FO_SIGNED8)
            WITH_LENGTH(end - at, STORE_SIGNED);
        else
            WITH_LENGTH(end - at, STORE_ROOT);
    }
}

#endif
