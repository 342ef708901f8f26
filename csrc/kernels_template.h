/* The kernels of one instruction set, for float32 and float64. Each isa_*.c includes this file under its target.

   This template expects:
     KERNELS          the name of the table to define
     DOUBLES          how many doubles a vector register has (vectors.h)
     VECTORS_AT_ONCE  how many vectors history_template.h multiplies at once: their running sums stay in registers */

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "convert.h"
#include "coordinates.h"
#include "isa.h"
#include "loops.h"
#include "storage.h"
#include "vectors.h"

#define REAL float
#define REAL_DTYPE FO_FLOAT32
#define STORED 1
#define SQRT(x) sqrtf(x)
#define ABSOLUTE(x) fabsf(x)
#define SMALLEST FLT_MIN
#define LOAD(from) LOAD_FLOAT32(from)
#define NAME(x) x##_float32
#define SCALARS(x) x##_scalars_float32
#include "pipeline_template.h"

#define REAL double
#define REAL_DTYPE FO_FLOAT64
#define STORED 0
#define SQRT(x) sqrt(x)
#define ABSOLUTE(x) fabs(x)
#define SMALLEST DBL_MIN
#define LOAD(from) LOAD_FLOAT64(from)
#define NAME(x) x##_float64
#define SCALARS(x) x##_scalars_float64
#include "pipeline_template.h"

#include "bfgs_template.h"

#define HISTORY(dtype)                                                                               \
    {[FO_HISTORY_BEGIN] = history_begin_##dtype,   [FO_HISTORY_FREE] = history_free_##dtype,         \
     [FO_HISTORY_DIRECT] = history_direct_##dtype, [FO_HISTORY_TRY_STEP] = history_try_step_##dtype, \
     [FO_HISTORY_READ] = history_read_##dtype,     [FO_HISTORY_PUT_BACK] = history_put_back_##dtype}

const fo_kernels KERNELS[] = {
    [FO_FLOAT32] = {step_chunk_float32, accumulate_chunk_float32, sum_products_chunk_float32, sum_squares_float32, NULL,
                    NULL, multiply_rows_float32, code_rows_float32, HISTORY(float32)},
    [FO_FLOAT64] = {step_chunk_float64, accumulate_chunk_float64, sum_products_chunk_float64, sum_squares_float64, dot,
                    bfgs_panel, multiply_rows_float64, code_rows_float64, HISTORY(float64)},
};
