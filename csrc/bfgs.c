/* The inverse Hessian of BFGS: a rank-two update and two products in one pass over half of the matrix. */
#include "isa.h"
#include "parallel.h"

typedef struct {
    const fo_array *panels;
    const fo_bfgs_vectors *vectors;
    double *columns, *products;
    int64_t size;
} pass;

/* A panel's sums of columns come after those of the panels before it: two of `first` numbers each. */
static double *columns_of(double *columns, int64_t panel)
{
    return columns + FO_PANEL_ROWS * panel * (panel - 1);
}

/* A panel is one thread's work, but it has as many chunks as elements, so that threads share the work by elements. */
static void visit_panel(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    (void)chunk, (void)end;
    if (begin > 0)
        return;
    const pass *at = context;
    const int64_t first = index * FO_PANEL_ROWS;
    const int64_t rows = at->size - first < FO_PANEL_ROWS ? at->size - first : FO_PANEL_ROWS;
    double *columns = columns_of(at->columns, index);
    fo_kernels_in_use()[FO_FLOAT64].bfgs_panel(at->panels[index].param, first, rows, at->vectors, columns,
                                               columns + first, at->products, at->products + at->size);
}

void fo_bfgs_pass(const fo_array *panels, int64_t count, int64_t size, const fo_bfgs_vectors *vectors, double *columns,
                  double *products, int32_t threads)
{
    const pass context = {panels, vectors, columns, products, size};
    const fo_mode before = fo_use_default_mode();
    fo_for_each_chunk(panels, count, threads, 1, visit_panel, &context);
    for (int64_t i = 1; i < count; i++)
        for (int product = 0; product < 2; product++) {
            const int64_t first = i * FO_PANEL_ROWS;
            const double *restrict sums = columns_of(columns, i) + product * first;
            double *restrict into = products + product * size;
            FO_SIMD
            for (int64_t k = 0; k < first; k++)
                into[k] += sums[k];
        }
    fo_restore_mode(before);
}

double fo_dot(const double *left, const double *right, int64_t size)
{
    const fo_mode before = fo_use_default_mode();
    const double sum = fo_kernels_in_use()[FO_FLOAT64].dot(left, right, size);
    fo_restore_mode(before);
    return sum;
}
