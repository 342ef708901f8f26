/* A hash of sparse codes and of what they are made from, with all buffers in guarded memory. */
#ifndef CODES_H
#define CODES_H

#include "workload.h"

enum { MOST_CODES = 40, MOST_FEATURES = 40, MOST_ATOMS = 160, CODE_BUFFERS = 7 };

/* Rows of few atoms; of all; of more than have a Gram matrix of their own; and rows that are not done. */
static const struct {
    int64_t count, features, atoms;
    double l1, l2;
    int32_t max_iterations, positive;
} code_problems[] = {{40, 17, 23, 0.375, 0, 1000, 0},
                     {1, 1, 1, 0.125, 0, 1000, 0},
                     {35, 8, 40, 0.0078125, 0.125, 300, 0},
                     {3, 40, 160, 0.0009765625, 0.5, 40, 0},
                     {33, 20, 31, 0.125, 0.25, 2, 1}};

/* A number from -1 to 1 that float32 holds. */
static double code_number(uint64_t seed)
{
    return (double)(mixed(seed) >> 41) / (double)(1 << 22) - 1;
}

static void set_number(void *memory, int64_t i, int32_t dtype, double value)
{
    if (dtype == FO_FLOAT32)
        ((float *)memory)[i] = (float)value;
    else
        ((double *)memory)[i] = value;
}

static double get_number(const void *memory, int64_t i, int32_t dtype)
{
    return dtype == FO_FLOAT32 ? (double)((const float *)memory)[i] : ((const double *)memory)[i];
}

static uint64_t hash_codes(const place *at, int32_t threads)
{
    static room rooms[CODE_BUFFERS];
    uint64_t hash = 0;
    for (int k = 0; k < CODE_BUFFERS && !rooms[k].begin; k++)
        rooms[k] = room_for((size_t)MOST_ATOMS * MOST_ATOMS * sizeof(double) * (k == 0 ? 16 : 1));
    for (size_t i = 0; i < sizeof code_problems / sizeof code_problems[0]; i++)
        for (int32_t dtype = FO_FLOAT32; dtype <= FO_FLOAT64; dtype++) {
            const int64_t count = code_problems[i].count, features = code_problems[i].features;
            const int64_t atoms = code_problems[i].atoms, stride = (atoms + FO_LANES - 1) / FO_LANES * FO_LANES;
            const size_t size = formats[dtype].size;
            void *rows = put(rooms[1], at[0], count * features, size);
            void *dictionary = put(rooms[2], at[1], atoms * features, size);
            double *transposed = put(rooms[3], at[2], features * stride, sizeof(double));
            void *gram = put(rooms[4], at[3], atoms * stride, size);
            void *inverse = put(rooms[5], at[4], atoms, size);
            void *codes = put(rooms[6], at[5], count * atoms, size);
            double gaps[MOST_CODES];
            memset(transposed, 0, (size_t)(features * stride) * sizeof(double));
            for (int64_t k = 0; k < count * features; k++)
                set_number(rows, k, dtype, code_number((uint64_t)k + 1));
            for (int64_t j = 0; j < atoms; j++)
                for (int64_t f = 0; f < features; f++) {
                    set_number(dictionary, j * features + f, dtype, code_number((uint64_t)(j * features + f) + 7777));
                    transposed[f * stride + j] = get_number(dictionary, j * features + f, dtype);
                }
            fo_coding coding = {.rows = dictionary,
                                .dictionary = transposed,
                                .count = atoms,
                                .features = features,
                                .stride = stride,
                                .dtype = dtype};
            void *scratch = put(rooms[0], at[6], fo_coding_scratch(&coding) * threads, 1);
            memset(scratch, 0, (size_t)(fo_coding_scratch(&coding) * threads));
            fo_multiply_rows(&coding, threads, gram, scratch);
            for (int64_t j = 0; j < atoms; j++)
                set_number(inverse, j, dtype, 1 / (get_number(gram, j * stride + j, dtype) + code_problems[i].l2));
            coding.rows = rows;
            coding.count = count;
            coding.atoms = atoms;
            coding.gram = gram;
            coding.inverse = inverse;
            coding.codes = codes;
            coding.gaps = gaps;
            coding.l1 = code_problems[i].l1;
            coding.l2 = code_problems[i].l2;
            coding.tolerance = dtype == FO_FLOAT32 ? 1e-6 : 1e-8;
            coding.jump_above = 1e-5 * coding.l1;
            coding.max_iterations = code_problems[i].max_iterations;
            coding.positive = code_problems[i].positive;
            memset(codes, 0, (size_t)(count * atoms) * size);
            for (int start = 0; start < 2; start++) {
                fo_code_rows(&coding, threads, scratch);
                hash = hash_numbers(hash, codes, count * atoms, dtype);
                hash = hash_numbers(hash, gaps, count, FO_FLOAT64);
                for (int64_t k = 0; k < count * atoms; k += 3)
                    set_number(codes, k, dtype, 0.5 * get_number(codes, k, dtype));
            }
            hash = hash_numbers(hash, gram, atoms * stride, dtype);
        }
    return hash;
}

#endif
