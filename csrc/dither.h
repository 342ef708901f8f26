/* Random numbers for rounding, from counters alone: the same whichever thread, instruction set or backend asks.
   FO_SCALE_BLOCK elements share a 64-bit hash of (step's seed, array, stream, block); inside, the golden ratio's
   multiples, which spread evenly, tell the elements apart. fastopt/dither.py is the twin. */
#ifndef FO_DITHER_H
#define FO_DITHER_H

#include <stdint.h>

#include "compiler.h"

/* splitmix64's finalizer (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014). */
static inline uint64_t fo_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static inline uint64_t fo_dither_key(uint64_t step, int64_t array, int stream)
{
    return fo_mix(step ^ fo_mix((uint64_t)array << 8 | (uint64_t)stream));
}

static inline uint32_t fo_dither_block(uint64_t key, int64_t block)
{
    return (uint32_t)(fo_mix(key + (uint64_t)block * 0x9e3779b97f4a7c15u) >> 32);
}

static inline uint32_t fo_dither(uint32_t block, uint32_t element)
{
    return block + element * 0x9e3779b9u;
}

#endif
