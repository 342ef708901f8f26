/* A table of arrays in guarded memory, filled with numbers that integers make, for steps of any rule, storage and
   options; and a hash of everything that a step may have changed. */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <math.h>
#include <string.h>

#include "fastopt.h"
#include "guarded.h"

/* --- numbers ------------------------------------------------------------------------------------------------------ */

static uint64_t mixed(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Indexed by fo_dtype. 8-bit codes have no exponent. */
static const struct {
    int exponent, mantissa;
    size_t size;
} formats[] = {
    [FO_FLOAT32] = {8, 23, 4}, [FO_FLOAT64] = {11, 52, 8}, [FO_FLOAT16] = {5, 10, 2},
    [FO_BFLOAT16] = {8, 7, 2}, [FO_SIGNED8] = {0, 8, 1},   [FO_ROOT8] = {0, 8, 1},
};
enum { DTYPES = 6 };

/* Tame numbers are finite, and small enough that a block in 8 bits keeps most of them apart. */
typedef enum { POSITIVE, TAME, WILD, KINDS } kind;

/* Return the bits of a number: a zero, a denormal, the smallest normal one, one with a denormal square, and of the wild
   ones infinity, NaN, the largest, a large one; else an ordinary one. */
static uint64_t number_bits(int32_t dtype, kind of, uint64_t random)
{
    const int mantissa_bits = formats[dtype].mantissa, exponent_bits = formats[dtype].exponent;
    const uint64_t sign = of == POSITIVE || exponent_bits == 0 ? 0 : random >> 63;
    const uint64_t most = (1u << exponent_bits) - 1, bias = most / 2;
    uint64_t exponent = exponent_bits == 0 ? 0 : bias - 12 + random % 16, mantissa = random >> 8;
    mantissa &= ((uint64_t)1 << mantissa_bits) - 1;
    switch (exponent_bits == 0 ? -1 : (int)(random >> 4 & 31)) {
    case 0:
        exponent = mantissa = 0;
        break;
    case 1:
        exponent = 0;
        break;
    case 2:
        exponent = 1, mantissa = 0;
        break;
    case 3:
        exponent = bias / 2;
        break;
    case 4:
        exponent = of == WILD ? most : exponent, mantissa = of == WILD ? 0 : mantissa;
        break;
    case 5:
        exponent = of == WILD ? most : exponent, mantissa |= of == WILD ? (uint64_t)1 << (mantissa_bits - 1) : 0;
        break;
    case 6:
        exponent = of == WILD ? most - 1 : exponent, mantissa |= of == WILD ? ((uint64_t)1 << mantissa_bits) - 1 : 0;
        break;
    case 7:
        exponent = of == WILD ? bias + bias / 4 : exponent;
        break;
    }
    return (sign << exponent_bits | exponent) << mantissa_bits | mantissa;
}

static void set_bits(void *memory, int64_t i, size_t size, uint64_t bits)
{
    switch (size) {
    case 1:
        ((uint8_t *)memory)[i] = (uint8_t)bits;
        break;
    case 2:
        ((uint16_t *)memory)[i] = (uint16_t)bits;
        break;
    case 4:
        ((uint32_t *)memory)[i] = (uint32_t)bits;
        break;
    default:
        ((uint64_t *)memory)[i] = bits;
    }
}

static uint64_t get_bits(const void *memory, int64_t i, size_t size)
{
    switch (size) {
    case 1:
        return ((const uint8_t *)memory)[i];
    case 2:
        return ((const uint16_t *)memory)[i];
    case 4:
        return ((const uint32_t *)memory)[i];
    default:
        return ((const uint64_t *)memory)[i];
    }
}

/* Numbers are made once and copied from here. */
enum { POOL = 1 << 15 };
static void *pools[DTYPES][KINDS];

static void make_pools(void)
{
    for (int32_t dtype = 0; dtype < DTYPES; dtype++)
        for (kind of = 0; of < KINDS; of++) {
            pools[dtype][of] = malloc(POOL * formats[dtype].size);
            if (!pools[dtype][of])
                exit(1);
            for (int64_t i = 0; i < POOL; i++)
                set_bits(pools[dtype][of], i, formats[dtype].size,
                         number_bits(dtype, of, mixed((uint64_t)(i * KINDS + of) * DTYPES + (uint64_t)dtype)));
        }
}

static void fill(void *memory, int64_t length, int32_t dtype, kind of, uint64_t seed)
{
    const size_t size = formats[dtype].size, first = (size_t)(mixed(seed) % (uint64_t)(POOL - length));
    memcpy(memory, (char *)pools[dtype][of] + first * size, (size_t)length * size);
}

/* Which NaN an operation makes is up to the machine: all count as one. */
static uint64_t hash_numbers(uint64_t hash, const void *memory, int64_t length, int32_t dtype)
{
    const uint64_t infinity = (((uint64_t)1 << formats[dtype].exponent) - 1) << formats[dtype].mantissa;
    const uint64_t sign = (uint64_t)1 << (formats[dtype].size * 8 - 1);
    for (int64_t i = 0; i < length; i++) {
        uint64_t bits = get_bits(memory, i, formats[dtype].size);
        if (formats[dtype].exponent != 0 && (bits & (sign - 1)) > infinity)
            bits = infinity + 1;
        hash = (hash ^ bits) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return hash;
}

/* --- storages and options ----------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int32_t dtype, grad_dtype, param_dtype;
    int32_t slot_dtypes[4]; /* no rule has more slots */
} storage;

#define SINGLE FO_FLOAT32
#define DOUBLE FO_FLOAT64
#define HALF FO_FLOAT16
#define BRAIN FO_BFLOAT16
#define SIGNED FO_SIGNED8
#define ROOT FO_ROOT8
static const storage storages[] = {
    {"float32", SINGLE, SINGLE, SINGLE, {SINGLE, SINGLE, SINGLE, SINGLE}},
    {"float32, gradient float64", SINGLE, DOUBLE, SINGLE, {SINGLE, SINGLE, SINGLE, SINGLE}},
    {"float32, gradient float16", SINGLE, HALF, SINGLE, {SINGLE, SINGLE, SINGLE, SINGLE}},
    {"float32, gradient bfloat16", SINGLE, BRAIN, SINGLE, {SINGLE, SINGLE, SINGLE, SINGLE}},
    {"float64", DOUBLE, DOUBLE, DOUBLE, {DOUBLE, DOUBLE, DOUBLE, DOUBLE}},
    {"float64, gradient float32", DOUBLE, SINGLE, DOUBLE, {DOUBLE, DOUBLE, DOUBLE, DOUBLE}},
    {"float64, gradient float16", DOUBLE, HALF, DOUBLE, {DOUBLE, DOUBLE, DOUBLE, DOUBLE}},
    {"float64, gradient bfloat16", DOUBLE, BRAIN, DOUBLE, {DOUBLE, DOUBLE, DOUBLE, DOUBLE}},
    {"bfloat16", SINGLE, BRAIN, BRAIN, {SINGLE, SINGLE, SINGLE, SINGLE}},
    {"bfloat16, slots bfloat16", SINGLE, SINGLE, BRAIN, {BRAIN, BRAIN, BRAIN, BRAIN}},
    {"float32, slots signed8", SINGLE, SINGLE, SINGLE, {SIGNED, SIGNED, SIGNED, SIGNED}},
    {"float32, slots root8", SINGLE, HALF, SINGLE, {ROOT, ROOT, ROOT, ROOT}},
    {"bfloat16, slots mixed", SINGLE, DOUBLE, BRAIN, {SIGNED, ROOT, BRAIN, SINGLE}},
};
enum { STORAGES = sizeof storages / sizeof storages[0], WIDE = 4, MIXED = STORAGES - 1 };

enum {
    SCALE = 1 << 0,
    ACCUMULATED_MEAN = 1 << 1,
    CLIP_VALUE = 1 << 2,
    CLIP_NORMS = 1 << 3,
    L2 = 1 << 4,
    L1 = 1 << 5,
    DECAY = 1 << 6,
    THRESHOLD = 1 << 7,
    AVERAGE_BLENDED = 1 << 8,
    COPY_BFLOAT16 = 1 << 9,
    ZERO_GRADS = 1 << 10,
    FLUSH = 1 << 11,
    TOGETHER = (1 << 12) - 1, /* all of the above; the ones below exclude others */
    AVERAGE_SET = 1 << 12,
    COPY_FLOAT16 = 1 << 13,
    UPDATE_ALONE = 1 << 14,
    FINISH_ALONE = 1 << 15,
    ALL_OPTIONS = 1 << 16, /* of the hash of a rule; the ones below have hashes of their own */
    CAUTIOUS = 1 << 16,
    BOUNDS = 1 << 17,
    ARRAY_BOUNDS = 1 << 18
};

/* A new number in a row of hyperparameters needs an option here. */
_Static_assert(offsetof(fo_hyper, own) == 29 * 8 + 4 * 4, "add an option for each new field");

/* Runs instead of each rule; NULL: none. */
static const fo_own_rule *own_rule;

/* Two groups differ in all numbers. No expression has a product and a sum, so that the compiler can't contract it. */
static fo_hyper hyper_of(int32_t rule, int options, int group)
{
    const double k = group + 1;
    fo_hyper hyper = {.grad_scale = options & SCALE ? -0.3 * k : 1,
                      .mean = options & ACCUMULATED_MEAN ? 1 / (2 + k) : 0,
                      .clip_value = options & CLIP_VALUE ? 0.7 / k : INFINITY,
                      .global_clip = options & CLIP_NORMS ? 0.9 / k : 1,
                      .l2 = options & L2 ? 0.013 * k : 0,
                      .l1 = options & L1 ? 0.0017 * k : 0,
                      .decay = options & DECAY ? k / (k + 0.01) : 1,
                      .cautious = options & CAUTIOUS ? 0.019 * k : 0,
                      .threshold = options & THRESHOLD ? 0.011 * k : 0,
                      .lower = options & BOUNDS && group == 0 ? -0.25 : -INFINITY,
                      .upper = options & BOUNDS ? 0.125 * k : INFINITY,
                      .average_weight = options & AVERAGE_BLENDED ? 0.1 * k : 1,
                      .dither = mixed((uint64_t)group),
                      .stages = FO_UPDATE | FO_CLEAR | FO_FINISH,
                      .zero_grads = (options & ZERO_GRADS) != 0,
                      .flush = options & FLUSH ? FO_FLUSH_SLOTS | FO_FLUSH_AVERAGE : 0,
                      .rule = rule,
                      .own = own_rule};
    if (options & UPDATE_ALONE)
        hyper.stages = FO_UPDATE;
    if (options & FINISH_ALONE)
        hyper.stages = FO_FINISH;
    for (int i = 0; i < FO_MAX_SCALARS; i++)
        hyper.scalars[i] = (7 * i % 16 + k) / 19;
    return hyper;
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

enum { MOST_ARRAYS = 70, GROUPS = 2 };

/* The buffers of an array, and those of a table. */
enum {
    PARAM,
    GRAD,
    SLOT,
    SCALES = SLOT + 4,
    AVERAGE = SCALES + 4,
    ACCUMULATED,
    COPY,
    LOWER,
    UPPER,
    ROLES,
    PARTIALS = ROLES,
    READINGS,
    COUNTS,
    ALL_ROLES
};

typedef struct {
    int64_t count, chunks;
    const int64_t *lengths;
    room rooms[MOST_ARRAYS][ROLES], partials, readings, counts;
    place at[ALL_ROLES];
    fo_array arrays[MOST_ARRAYS];
    void *grads[MOST_ARRAYS];
    fo_hyper hypers[GROUPS];
} table;

static table *new_table(const int64_t *lengths, int64_t count, const place *at)
{
    table *new = calloc(1, sizeof *new);
    if (!new || count > MOST_ARRAYS)
        exit(1);
    new->count = count, new->lengths = lengths;
    memcpy(new->at, at, sizeof new->at);
    for (int64_t i = 0; i < count; i++) {
        new->arrays[i].first_chunk = new->chunks;
        new->chunks += (lengths[i] + FO_CHUNK - 1) / FO_CHUNK;
        for (int role = 0; role < ROLES; role++)
            new->rooms[i][role] = room_for((size_t)(lengths[i] + 1) * 8);
    }
    new->partials = room_for((size_t)(new->chunks + 1) * sizeof(fo_reading));
    new->readings = room_for((size_t)(count + 1) * sizeof(fo_reading));
    new->counts = room_for((size_t)(3 + 2 * count) * sizeof(int64_t));
    return new;
}

static void *filled(const table *of, int64_t i, int role, int32_t dtype, kind as, uint64_t seed)
{
    const int64_t length = of->lengths[i];
    void *memory = put(of->rooms[i][role], of->at[role], length, formats[dtype].size);
    fill(memory, length, dtype, as, seed * 32 + (uint64_t)role);
    return memory;
}

/* Fill all buffers. Every third array has infinities and NaN. Of the others, every second one has no negative slots, so
   that roots of them are numbers. */
static void set_up(table *of, int32_t rule, const storage *stored, int options)
{
    for (int group = 0; group < GROUPS; group++)
        of->hypers[group] = hyper_of(rule, options, group);
    for (int64_t i = 0; i < of->count; i++) {
        fo_array *array = &of->arrays[i];
        const uint64_t seed = (uint64_t)(i * 64 + rule);
        const kind as = i % 3 == 2 ? WILD : TAME, of_slots = i % 2 == 0 && as == TAME ? POSITIVE : as;
        *array = (fo_array){.length = of->lengths[i],
                            .first_chunk = array->first_chunk,
                            .number = i,
                            .array_clip = options & CLIP_NORMS ? 0.8 : 1,
                            .dtype = stored->dtype,
                            .grad_dtype = stored->grad_dtype,
                            .param_dtype = stored->param_dtype,
                            .is_stored = stored->param_dtype != stored->dtype,
                            .copy_dtype = options & COPY_FLOAT16 ? FO_FLOAT16 : FO_BFLOAT16,
                            .hyper = (int32_t)(i % GROUPS)};
        of->grads[i] = filled(of, i, GRAD, stored->grad_dtype, as, seed);
        array->param = filled(of, i, PARAM, stored->param_dtype, as, seed);
        for (int k = 0; k < 4; k++) {
            const int32_t dtype = stored->slot_dtypes[k];
            array->slot_dtypes[k] = dtype;
            array->is_stored |= dtype != stored->dtype;
            array->slots[k] = filled(of, i, SLOT + k, dtype, of_slots, seed);
            if (dtype == FO_SIGNED8 || dtype == FO_ROOT8) {
                const int64_t blocks = (array->length + FO_SCALE_BLOCK - 1) / FO_SCALE_BLOCK;
                array->scales[k] = put(of->rooms[i][SCALES + k], of->at[SCALES + k], blocks, sizeof(float));
                fill(array->scales[k], blocks, FO_FLOAT32, as == TAME ? POSITIVE : as, seed + 1000 + (uint64_t)k);
            }
        }
        if (options & (AVERAGE_BLENDED | AVERAGE_SET))
            array->average = filled(of, i, AVERAGE, stored->dtype, as, seed);
        if (options & ACCUMULATED_MEAN)
            array->accumulated = filled(of, i, ACCUMULATED, stored->dtype, as, seed);
        if (options & (COPY_BFLOAT16 | COPY_FLOAT16))
            array->copy = filled(of, i, COPY, array->copy_dtype, as, seed);
        if (options & ARRAY_BOUNDS && i % 4 != 1)
            array->lower = filled(of, i, LOWER, stored->dtype, as, seed);
        if (options & ARRAY_BOUNDS && i % 4 != 2)
            array->upper = filled(of, i, UPPER, stored->dtype, as, seed);
    }
}

/* Hash all that a step may change. */
static uint64_t hash_table(uint64_t hash, const table *of)
{
    for (int64_t i = 0; i < of->count; i++) {
        const fo_array *array = &of->arrays[i];
        hash = hash_numbers(hash, array->param, array->length, array->param_dtype);
        if (of->grads[i])
            hash = hash_numbers(hash, of->grads[i], array->length, array->grad_dtype);
        for (int k = 0; k < 4; k++) {
            hash = hash_numbers(hash, array->slots[k], array->length, array->slot_dtypes[k]);
            if (array->scales[k])
                hash = hash_numbers(hash, array->scales[k], (array->length + FO_SCALE_BLOCK - 1) / FO_SCALE_BLOCK,
                                    FO_FLOAT32);
        }
        if (array->average)
            hash = hash_numbers(hash, array->average, array->length, array->dtype);
        if (array->accumulated)
            hash = hash_numbers(hash, array->accumulated, array->length, array->dtype);
        if (array->copy)
            hash = hash_numbers(hash, array->copy, array->length, array->copy_dtype);
    }
    return hash;
}

static uint64_t hash_integers(uint64_t hash, const int64_t *numbers, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        hash = mixed(hash ^ (uint64_t)numbers[i]);
    return hash;
}

/* Sum the products of two sources; return the hash of the readings. */
static uint64_t hash_sums(uint64_t hash, const table *of, int32_t left, int32_t right, int32_t nonfinite,
                          int32_t threads)
{
    fo_reading *partials = put(of->partials, of->at[PARTIALS], of->chunks, sizeof(fo_reading));
    fo_reading *readings = put(of->readings, of->at[READINGS], of->count, sizeof(fo_reading));
    fo_sum_products(of->arrays, of->grads, of->count, of->hypers, left, right, nonfinite, partials, readings, threads);
    for (int64_t i = 0; i < of->count; i++) {
        hash = hash_numbers(hash, &readings[i].sum, 1, FO_FLOAT64);
        hash = hash_integers(hash, &readings[i].nonfinite, 1);
    }
    return hash;
}

/* Return the number of an instruction set; -1 if this machine or this build lacks it. */
static int32_t isa_named(const char *name)
{
    for (int32_t isa = 0; isa < FO_ISA_COUNT; isa++)
        if (strcmp(fo_isa_name(isa), name) == 0 && fo_isa_found(isa))
            return isa;
    return -1;
}

#endif
