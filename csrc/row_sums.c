/* The sums of the rows of a gradient that stand for the same row of a table. */
#include "compiler.h"
#include "fastopt.h"

#include <string.h>

#define ADD_ROWS(REAL)                                                                                          \
    static void add_rows_##REAL(const REAL *restrict values, int64_t width, const int64_t *order, int64_t rows, \
                                const int64_t *firsts, int64_t count, REAL *restrict sums)                      \
    {                                                                                                           \
        for (int64_t i = 0; i < count; i++) {                                                                   \
            const int64_t end = i + 1 < count ? firsts[i + 1] : rows;                                           \
            REAL *sum = sums + i * width;                                                                       \
            memcpy(sum, values + order[firsts[i]] * width, (size_t)width * sizeof(REAL));                       \
            for (int64_t k = firsts[i] + 1; k < end; k++) {                                                     \
                const REAL *row = values + order[k] * width;                                                    \
                FO_SIMD                                                                                         \
                for (int64_t j = 0; j < width; j++)                                                             \
                    sum[j] += row[j];                                                                           \
            }                                                                                                   \
        }                                                                                                       \
    }

ADD_ROWS(float)
ADD_ROWS(double)

void fo_add_rows(const void *values, int32_t dtype, int64_t width, const int64_t *order, int64_t rows,
                 const int64_t *firsts, int64_t count, void *sums)
{
    const fo_mode before = fo_use_default_mode();
    if (dtype == FO_FLOAT32)
        add_rows_float(values, width, order, rows, firsts, count, sums);
    else
        add_rows_double(values, width, order, rows, firsts, count, sums);
    fo_restore_mode(before);
}
