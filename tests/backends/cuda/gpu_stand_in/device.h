// What a kernel in C needs of the device, and the device of a kernel. PTX's types keep their names.
#ifndef DEVICE_H
#define DEVICE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tgmath.h>

typedef bool pred;
typedef uint8_t u8, b8;
typedef int8_t s8;
typedef uint16_t u16, b16;
typedef int16_t s16;
typedef uint32_t u32, b32;
typedef int32_t s32;
typedef uint64_t u64, b64;
typedef int64_t s64;
typedef _Float16 f16;
typedef float f32;
typedef double f64;

// A register has a size but no type: each instruction says as what it reads the bits, of which the lowest come first.
typedef union {
    pred pred;
    u8 u8;
    s8 s8;
    b8 b8;
    u16 u16;
    s16 s16;
    b16 b16;
    u32 u32;
    s32 s32;
    b32 b32;
    u64 u64;
    s64 s64;
    b64 b64;
    f16 f16;
    f32 f32;
    f64 f64;
} Register;

typedef struct {
    u64 address, size;
} Span;

typedef struct {
    const char *name;
    void (*run)(void *const *arguments);
    unsigned most_threads;  // of a block; 0: any
    const Span *shared;     // ends with a size of 0
} Kernel;

// Which thread this is, and how many beside each other the block has.
extern struct Here {
    u32 x, y, block, width;
} here;

// Each of these ends the launch with an error where a GPU would end it, or may do anything. `place` is the statement of
// PTX, with a number that makes it the only one.
void *device_global(u64 address, unsigned size, const char *place);
void *device_shared(u64 address, unsigned size, const char *place);
void device_block_barrier(u32 barrier, const char *place);
void device_warp_barrier(u32 mask, const char *place);
u32 device_exchanged(u32 value, u32 distance, u32 clamp, u32 mask, const char *place);

// NaN is 0 and what is too large the largest; C leaves both undefined.
static inline s32 whole_s32(f64 x)
{
    return isnan(x) ? 0 : x >= 0x1p31f ? INT32_MAX : x < -0x1p31f ? INT32_MIN : (s32)x;
}

#endif
