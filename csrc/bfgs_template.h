/* The pass of BFGS over a panel of its inverse Hessian, and sums of products, in double precision (bfgs.c).

   kernels_template.h includes this file once for each instruction set. */

static double sum_of_lanes(const double *lanes, int count)
{
    double sums[FO_LANES];
    memcpy(sums, lanes, (size_t)count * sizeof(double));
    for (int half = count / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            sums[k] += sums[k + half];
    return sums[0];
}

static double dot(const double *restrict left, const double *restrict right, int64_t size)
{
    double sum = 0;
    for (int64_t begin = 0; begin < size; begin += FO_CHUNK) {
        const int64_t end = size - begin < FO_CHUNK ? size : begin + FO_CHUNK;
        double lanes[FO_LANES] = {0};
        int64_t i = begin;
        for (; i + FO_LANES <= end; i += FO_LANES) {
            FO_SIMD
            for (int k = 0; k < FO_LANES; k++)
                lanes[k] += left[i + k] * right[i + k];
        }
        for (int k = 0; i + k < end; k++)
            lanes[k] += left[i + k] * right[i + k];
        sum += sum_of_lanes(lanes, FO_LANES);
    }
    return sum;
}

/* The running sums of a panel: of each row, for both products. */
typedef double panel_lanes[FO_PANEL_ROWS][2][FO_PANEL_LANES];

/* Do the work of bfgs_panel on `width` columns from column `first` on: block[rows][width]. A panel has so many rows
   that these parts of the vectors stay in the L1 cache. Two rows at a time: the sums of one row alone would wait for
   their own last addition. */
static void panel_block(double *restrict block, int64_t row, int64_t rows, int64_t first, int64_t width,
                        const fo_bfgs_vectors *vectors, panel_lanes lanes, double *restrict column_y,
                        double *restrict column_g)
{
    const double *restrict s = vectors->s + first, *restrict w = vectors->w + first;
    const double *restrict y = vectors->y + first, *restrict g = vectors->g + first;
    for (int64_t i = 0; i < rows; i += 2) {
        double *restrict upper = block + i * width, *restrict lower = upper + width;
        const double s0 = vectors->s[row + i], s1 = vectors->s[row + i + 1];
        const double w0 = vectors->w[row + i], w1 = vectors->w[row + i + 1];
        const double y0 = vectors->y[row + i], y1 = vectors->y[row + i + 1];
        const double g0 = vectors->g[row + i], g1 = vectors->g[row + i + 1];
        double sums[2][2][FO_PANEL_LANES];
        memcpy(sums, lanes[i], sizeof sums);
        for (int64_t j = 0; j < width; j += FO_PANEL_LANES) {
            FO_SIMD
            for (int k = 0; k < FO_PANEL_LANES; k++) {
                const double h0 = upper[j + k] + (s0 * w[j + k] + w0 * s[j + k]);
                const double h1 = lower[j + k] + (s1 * w[j + k] + w1 * s[j + k]);
                upper[j + k] = h0;
                lower[j + k] = h1;
                sums[0][0][k] += h0 * y[j + k];
                sums[0][1][k] += h0 * g[j + k];
                sums[1][0][k] += h1 * y[j + k];
                sums[1][1][k] += h1 * g[j + k];
                column_y[j + k] = column_y[j + k] + h0 * y0 + h1 * y1;
                column_g[j + k] = column_g[j + k] + h0 * g0 + h1 * g1;
            }
        }
        memcpy(lanes[i], sums, sizeof sums);
    }
}

static void bfgs_panel(double *panel, int64_t first, int64_t rows, const fo_bfgs_vectors *vectors, double *column_y,
                       double *column_g, double *product_y, double *product_g)
{
    panel_lanes lanes;
    memset(lanes, 0, sizeof lanes);
    memset(column_y, 0, (size_t)first * sizeof(double));
    memset(column_g, 0, (size_t)first * sizeof(double));
    for (int64_t j = 0; j < first; j += FO_PANEL_COLUMNS) {
        const int64_t width = first - j < FO_PANEL_COLUMNS ? first - j : FO_PANEL_COLUMNS;
        panel_block(panel + j * rows, first, rows, j, width, vectors, lanes, column_y + j, column_g + j);
    }
    /* The square on the diagonal has both halves of its elements. */
    double unused[2][FO_PANEL_ROWS] = {{0}};
    panel_block(panel + first * rows, first, rows, first, rows, vectors, lanes, unused[0], unused[1]);
    for (int64_t i = 0; i < rows; i++) {
        product_y[first + i] = sum_of_lanes(lanes[i][0], FO_PANEL_LANES);
        product_g[first + i] = sum_of_lanes(lanes[i][1], FO_PANEL_LANES);
    }
}
