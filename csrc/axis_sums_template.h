/* Sums of squares over the second of three axes, in the order of sum_products_chunk: its chunks, its lanes.

   pipeline_template.h includes this file. This template expects:
     REAL     float or double
     NAME(x)  x with a suffix for this type */

/* How many neighbouring sums are added together: their lanes stay in the L1 cache. */
#define COLUMNS 128

static double NAME(sum_squares_run)(const REAL *restrict run, int64_t size)
{
    double sum = 0;
    for (int64_t begin = 0; begin < size; begin += FO_CHUNK) {
        const int64_t end = size - begin < FO_CHUNK ? size : begin + FO_CHUNK;
        double lanes[FO_LANES] = {0};
        int64_t i = begin;
        for (; i + FO_LANES <= end; i += FO_LANES) {
            FO_SIMD
            for (int k = 0; k < FO_LANES; k++)
                lanes[k] += (double)run[i + k] * (double)run[i + k];
        }
        for (int k = 0; i + k < end; k++)
            lanes[k] += (double)run[i + k] * (double)run[i + k];
        for (int half = FO_LANES / 2; half > 0; half /= 2)
            for (int k = 0; k < half; k++)
                lanes[k] += lanes[k + half];
        sum += lanes[0];
    }
    return sum;
}

/* Add up `width` neighbouring columns. The next element of a column is `inner` elements further on. */
static void NAME(sum_squares_columns)(const REAL *restrict columns, int64_t size, int64_t inner, int64_t width,
                                      double *restrict sums)
{
    double lanes[FO_LANES][COLUMNS];
    for (int64_t begin = 0; begin < size; begin += FO_CHUNK) {
        const int64_t end = size - begin < FO_CHUNK ? size : begin + FO_CHUNK;
        const int used = end - begin < FO_LANES ? (int)(end - begin) : FO_LANES; /* the others are 0 */
        for (int j = 0; j < used; j++)
            memset(lanes[j], 0, (size_t)width * sizeof(double));
        for (int64_t i = begin; i < end; i++) {
            const REAL *restrict row = columns + i * inner;
            double *restrict lane = lanes[(i - begin) % FO_LANES];
            FO_SIMD
            for (int64_t k = 0; k < width; k++)
                lane[k] += (double)row[k] * (double)row[k];
        }
        for (int half = FO_LANES / 2; half > 0; half /= 2)
            for (int j = 0; j < half && j + half < used; j++) {
                FO_SIMD
                for (int64_t k = 0; k < width; k++)
                    lanes[j][k] += lanes[j + half][k];
            }
        for (int64_t k = 0; k < width; k++)
            sums[k] += lanes[0][k];
    }
}

static void NAME(sum_squares)(const void *values, int64_t outer, int64_t size, int64_t inner, double *sums)
{
    for (int64_t i = 0; i < outer; i++) {
        const REAL *first = (const REAL *)values + i * size * inner;
        if (inner == 1)
            sums[i] += NAME(sum_squares_run)(first, size);
        else
            for (int64_t k = 0; k < inner; k += COLUMNS)
                NAME(sum_squares_columns)(first + k, size, inner, inner - k < COLUMNS ? inner - k : COLUMNS,
                                          sums + i * inner + k);
    }
}

#undef COLUMNS
