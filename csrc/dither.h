/* Random numbers for rounding. They come from counters alone, so that every thread, instruction set and backend gets
   the same ones. FO_SCALE_BLOCK elements share a hash of (step's seed, array, stream, block). Inside a block each
   element adds its index in reversed bits, which spreads evenly. fastopt/arithmetic/dither.py is the twin. */
#ifndef FO_DITHER_H
#define FO_DITHER_H

#include <stdint.h>

#include "compiler.h"
#include "fastopt.h"

/* splitmix64's finalizer (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014). */
static inline uint64_t fo_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

#define FO_GOLDEN 0x9e3779b97f4a7c15u

/* The key of a stream of an array, in the step with this seed. It counts the blocks before a slice, so that an element
   has the random bits that it has in the whole array. */
static inline uint64_t fo_dither_key(uint64_t step, const fo_array *array, int stream)
{
    return fo_mix(step ^ fo_mix((uint64_t)array->number << 8 | (uint64_t)stream)) +
           (uint64_t)array->first_block * FO_GOLDEN;
}

/* 16 random bits, shifted by 7. */
static inline uint32_t fo_dither_block(uint64_t key, int64_t block)
{
    return (uint32_t)(fo_mix(key + (uint64_t)block * FO_GOLDEN) >> 48) << 7;
}

/* An element's random bits are those of its block ^ fo_dither[element] >> 7: the 8 bits of its index in reverse, then 8
   bits of 0. This is a table because an exclusive or with memory is one instruction. It is shifted to where a float's
   mantissa begins. */
#define REVERSED_2(n) (n), (n) + (2u << 21), (n) + (1u << 21), (n) + (3u << 21)
#define REVERSED_4(n) \
    REVERSED_2(n), REVERSED_2((n) + (2u << 19)), REVERSED_2((n) + (1u << 19)), REVERSED_2((n) + (3u << 19))
#define REVERSED_6(n) \
    REVERSED_4(n), REVERSED_4((n) + (2u << 17)), REVERSED_4((n) + (1u << 17)), REVERSED_4((n) + (3u << 17))
static const uint32_t fo_dither[FO_SCALE_BLOCK] = {
    REVERSED_6(0u),
    REVERSED_6(2u << 15),
    REVERSED_6(1u << 15),
    REVERSED_6(3u << 15),
};
#undef REVERSED_2
#undef REVERSED_4
#undef REVERSED_6

#endif
