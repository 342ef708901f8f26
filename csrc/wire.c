/* Gradients and parameters on their way between ranks: many arrays become one vector, and the vectors of several ranks
   one sum. fastopt/backends/numpy/packing.py is the twin. */
#include "convert.h"
#include "isa.h"
#include "parallel.h"

static int64_t size_of(int32_t dtype)
{
    return dtype == FO_FLOAT64 ? 8 : dtype == FO_FLOAT32 ? 4 : 2;
}

#define COPY(source, target, convert)                                                                \
    static void source##_to_##target(const void *restrict from, void *restrict into, int64_t length) \
    {                                                                                                \
        const source##_number *x = from;                                                             \
        target##_number *y = into;                                                                   \
        FO_SIMD                                                                                      \
        for (int64_t i = 0; i < length; i++)                                                         \
            y[i] = (target##_number)convert;                                                         \
    }

typedef float float32_number;
typedef double float64_number;
typedef uint16_t float16_number, bfloat16_number;

COPY(float64, float32, x[i])
COPY(float16, float32, fo_float16_to_float32(x[i]))
COPY(bfloat16, float32, fo_bfloat16_to_float32(x[i]))
COPY(float32, float64, x[i])
COPY(float16, float64, fo_float16_to_float32(x[i]))
COPY(bfloat16, float64, fo_bfloat16_to_float32(x[i]))
COPY(float32, float16, fo_float32_to_float16(x[i]))
COPY(float64, float16, fo_float32_to_float16((float)x[i]))
COPY(bfloat16, float16, fo_float32_to_float16(fo_bfloat16_to_float32(x[i])))
COPY(float32, bfloat16, fo_float32_to_bfloat16(x[i]))
COPY(float64, bfloat16, fo_float32_to_bfloat16((float)x[i]))
COPY(float16, bfloat16, fo_float32_to_bfloat16(fo_float16_to_float32(x[i])))

typedef void copy(const void *restrict from, void *restrict into, int64_t length);

/* Indexed by the dtypes of source and target; NULL: the same bits. */
static copy *const copies[4][4] = {
    {NULL, float32_to_float64, float32_to_float16, float32_to_bfloat16},
    {float64_to_float32, NULL, float64_to_float16, float64_to_bfloat16},
    {float16_to_float32, float16_to_float64, NULL, float16_to_bfloat16},
    {bfloat16_to_float32, bfloat16_to_float64, bfloat16_to_float16, NULL},
};

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Return the number of the last array that begins at this place of the vector or before it. */
static int64_t array_at(const fo_packed *packed, int64_t place)
{
    int64_t found = 0, end = packed->count;
    while (end - found > 1) {
        const int64_t middle = found + (end - found) / 2;
        if (packed->starts[middle] <= place)
            found = middle;
        else
            end = middle;
    }
    return found;
}

/* The elements [begin, end) of a vector that lie in one array, and their address there; NULL: zeros. */
typedef struct {
    int64_t begin, end;
    char *memory;
} part;

static part part_of(const fo_packed *packed, int64_t array, int64_t begin, int64_t end)
{
    const int64_t start = packed->starts[array], first = larger(begin, start);
    char *const memory = packed->arrays[array];
    return (part){first, smaller(end, packed->starts[array + 1]),
                  memory ? memory + (first - start) * size_of(packed->dtypes[array]) : NULL};
}

static void write_part(const part *from, int32_t from_dtype, int32_t dtype, void *into)
{
    const int64_t length = from->end - from->begin;
    copy *const convert = copies[from_dtype][dtype];
    if (!from->memory)
        memset(into, 0, (size_t)(length * size_of(dtype)));
    else if (convert)
        convert(from->memory, into, length);
    else
        memcpy(into, from->memory, (size_t)(length * size_of(dtype)));
}

/* A vector of elements of packed arrays, from `first` on. */
typedef struct {
    const fo_packed *packed;
    int64_t first;
    int32_t dtype;
    char *vector;
} vector_pass;

static void pack_chunk(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    const vector_pass *pass = context;
    const fo_packed *packed = pass->packed;
    (void)index, (void)chunk;
    begin += pass->first, end += pass->first;
    for (int64_t i = array_at(packed, begin); i < packed->count && packed->starts[i] < end; i++) {
        const part from = part_of(packed, i, begin, end);
        write_part(&from, packed->dtypes[i], pass->dtype,
                   pass->vector + (from.begin - pass->first) * size_of(pass->dtype));
    }
}

static void unpack_chunk(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    const vector_pass *pass = context;
    const fo_packed *packed = pass->packed;
    const int64_t size = size_of(pass->dtype);
    (void)index, (void)chunk;
    begin += pass->first, end += pass->first;
    for (int64_t i = array_at(packed, begin); i < packed->count && packed->starts[i] < end; i++) {
        const part into = part_of(packed, i, begin, end);
        memcpy(into.memory, pass->vector + (into.begin - pass->first) * size, (size_t)((into.end - into.begin) * size));
    }
}

void fo_pack(const fo_packed *packed, int64_t begin, int64_t end, int32_t dtype, void *vector, int32_t threads)
{
    const fo_array array = {.length = end - begin};
    const vector_pass pass = {packed, begin, dtype, vector};
    const fo_mode before = fo_use_default_mode();
    fo_for_each_chunk(&array, 1, threads, 1, pack_chunk, &pass);
    fo_restore_mode(before);
}

void fo_unpack(const fo_packed *packed, int64_t begin, int64_t end, int32_t dtype, const void *vector, int32_t threads)
{
    const fo_array array = {.length = end - begin};
    const vector_pass pass = {packed, begin, dtype, (char *)vector};
    fo_for_each_chunk(&array, 1, threads, 1, unpack_chunk, &pass);
}

typedef struct {
    const fo_kernels *kernels;
    const fo_array *sums;
    const fo_packed *packed;
    int64_t first; /* the place in the packed arrays of the first sum */
    const void *const *rows;
    const fo_hyper *hyper;
    int64_t count;
    int32_t from;
} rows_pass;

static void fill(void *sums, int32_t dtype, int64_t begin, int64_t end, double value)
{
    if (dtype == FO_FLOAT32)
        for (int64_t i = begin; i < end; i++)
            ((float *)sums)[i] = (float)value;
    else
        for (int64_t i = begin; i < end; i++)
            ((double *)sums)[i] = value;
}

/* Add packed arrays to sums [begin, end), at most a chunk. Those of the rows' dtype are read where they are. */
static void add_packed(const rows_pass *pass, int64_t begin, int64_t end)
{
    const fo_packed *packed = pass->packed;
    const int32_t dtype = pass->sums->dtype, row_dtype = pass->sums->grad_dtype;
    double numbers[FO_CHUNK];
    begin += pass->first, end += pass->first;
    for (int64_t i = array_at(packed, begin); i < packed->count && packed->starts[i] < end; i++) {
        const part from = part_of(packed, i, begin, end);
        const int is_row = from.memory && packed->dtypes[i] == row_dtype;
        if (!is_row)
            write_part(&from, packed->dtypes[i], row_dtype, numbers);
        const fo_array sums = {
            .accumulated = (char *)pass->sums->accumulated + (from.begin - pass->first) * size_of(dtype),
            .dtype = dtype,
            .grad_dtype = row_dtype,
        };
        pass->kernels[dtype].accumulate_chunk(&sums, is_row ? (void *)from.memory : numbers, 0, from.end - from.begin,
                                              pass->hyper);
    }
}

static void visit_rows(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    const rows_pass *pass = context;
    (void)index, (void)chunk;
    /* Only -0 leaves every number as it is, -0 too. */
    if (pass->from != FO_FROM_SUMS)
        fill(pass->sums->accumulated, pass->sums->dtype, begin, end, pass->from == FO_FROM_ZERO ? 0.0 : -0.0);
    for (int64_t k = 0; k < pass->count; k++)
        if (pass->rows[k])
            pass->kernels[pass->sums->dtype].accumulate_chunk(pass->sums, (void *)pass->rows[k], begin, end,
                                                              pass->hyper);
        else
            add_packed(pass, begin, end);
}

void fo_accumulate_rows(const fo_packed *packed, int64_t begin, const void *const *rows, int32_t row_dtype,
                        int64_t count, int64_t length, double scale, int32_t from, int32_t dtype, void *sums,
                        int32_t threads)
{
    const fo_array array = {.accumulated = sums, .length = length, .dtype = dtype, .grad_dtype = row_dtype};
    const fo_hyper hyper = {.grad_scale = scale};
    const rows_pass pass = {fo_kernels_in_use(), &array, packed, begin, rows, &hyper, count, from};
    const fo_mode before = fo_use_default_mode();
    fo_for_each_chunk(&array, 1, threads, 1, visit_rows, &pass);
    fo_restore_mode(before);
}
