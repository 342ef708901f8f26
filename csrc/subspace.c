/* The direction of L-BFGS in the subspace of the free parameters: its factors, from products of vectors.
   fastopt/backends/subspace.py is the twin, and has the formulas. */
#include "subspace.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* A matrix in the memory of another one: of its element (i, j) the place is i * down + j * across. */
typedef struct {
    const double *numbers;
    int64_t down, across;
} fo_view;

static double at(fo_view a, int64_t i, int64_t j)
{
    return a.numbers[i * a.down + j * a.across];
}

static fo_view square(const double *numbers, int64_t count)
{
    return (fo_view){numbers, count, 1};
}

static fo_view column(const double *numbers)
{
    return (fo_view){numbers, 1, 1};
}

static fo_view transposed(fo_view a)
{
    return (fo_view){a.numbers, a.across, a.down};
}

/* product (rows, columns) <- a b, of which the terms are added in index order. */
static void multiply(double *restrict product, fo_view a, fo_view b, int64_t rows, int64_t inner, int64_t columns)
{
    memset(product, 0, (size_t)(rows * columns) * sizeof(double));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < inner; k++) {
            const double factor = at(a, i, k);
            for (int64_t j = 0; j < columns; j++)
                product[i * columns + j] += factor * at(b, k, j);
        }
}

/* sum (count, columns) <- a b + c d, each product made first; the second one is left in `product`. */
static void add_products(double *restrict sum, double *restrict product, fo_view a, fo_view b, fo_view c, fo_view d,
                         int64_t count, int64_t columns)
{
    multiply(sum, a, b, count, count, columns);
    multiply(product, c, d, count, count, columns);
    for (int64_t i = 0; i < count * columns; i++)
        sum[i] += product[i];
}

/* x <- x - factor * other. */
static void subtract(double *restrict x, double factor, const double *restrict other, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] -= factor * other[i];
}

/* Replace the lower triangle of a matrix by L of L L'; return whether the matrix is positive definite. */
static int factorize(double *matrix, int64_t count)
{
    for (int64_t k = 0; k < count; k++) {
        const double pivot = matrix[k * count + k];
        if (!(0 < pivot && pivot < INFINITY))
            return 0;
        const double root = sqrt(pivot);
        for (int64_t i = k; i < count; i++)
            matrix[i * count + k] /= root;
        for (int64_t i = k + 1; i < count; i++)
            for (int64_t j = k + 1; j <= i; j++)
                matrix[i * count + j] -= matrix[i * count + k] * matrix[j * count + k];
    }
    return 1;
}

/* x <- the solution of L x = the right sides, which x has as columns. */
static void solve_forward(const double *restrict lower, double *restrict x, int64_t count, int64_t columns)
{
    for (int64_t k = 0; k < count; k++) {
        for (int64_t j = 0; j < columns; j++)
            x[k * columns + j] /= lower[k * count + k];
        for (int64_t i = k + 1; i < count; i++)
            subtract(x + i * columns, lower[i * count + k], x + k * columns, columns);
    }
}

/* x <- the solution of L' x = x. */
static void solve_backward(const double *restrict lower, double *restrict x, int64_t count)
{
    for (int64_t k = count - 1; k >= 0; k--) {
        x[k] /= lower[k * count + k];
        subtract(x, x[k], lower + k * count, k);
    }
}

/* The numbers on the way: matrices (count, count), and vectors from `roots` on. */
typedef struct {
    int64_t count;
    double theta;
    double *of_s, *of_y;     /* each c_i: row i has the coefficients of the vectors s, and of the vectors y */
    double *with_s, *with_y; /* the products of each c_i with the free vectors */
    double *upper, *lower;   /* theta I + A'A, and the Schur complement */
    double *ac, *product;    /* A'C, divided by the root of the upper one */
    double *roots, *rest, *u, *v, *c_grad;
} fo_subspace;

static fo_subspace subspace_of(const fo_history *history, int64_t count)
{
    const int64_t newest = (count - 1) * history->size + count - 1;
    fo_subspace found = {.count = count, .theta = history->yy[newest] / history->sy[newest]};
    double *room = history->scratch;
    double **const matrices[] = {&found.of_s,  &found.of_y,  &found.with_s, &found.with_y,
                                 &found.upper, &found.lower, &found.ac,     &found.product};
    double **const vectors[] = {&found.roots, &found.rest, &found.u, &found.v, &found.c_grad};
    for (size_t k = 0; k < sizeof matrices / sizeof matrices[0]; k++, room += count * count)
        *matrices[k] = room;
    for (size_t k = 0; k < sizeof vectors / sizeof vectors[0]; k++, room += count)
        *vectors[k] = room;
    for (int64_t i = 0; i < count; i++)
        found.roots[i] = sqrt(history->sy[i * history->size + i]);
    return found;
}

/* Set the coefficients of each c_i; return whether they are finite. */
static int set_curved_columns(const fo_subspace *on, const fo_history *history)
{
    const int64_t count = on->count, size = history->size;
    const double *restrict ss = history->ss, *restrict sy = history->sy;
    memset(on->of_s, 0, (size_t)(count * count) * sizeof(double));
    memset(on->of_y, 0, (size_t)(count * count) * sizeof(double));
    for (int64_t i = 0; i < count; i++) {
        double *restrict of_s = on->of_s + i * count, *restrict of_y = on->of_y + i * count;
        of_s[i] = on->theta;
        for (int64_t j = 0; j < i; j++) {
            const double *restrict other_s = on->of_s + j * count, *restrict other_y = on->of_y + j * count;
            double with_s = 0; /* c_j's_i */
            for (int64_t k = 0; k <= j; k++) {
                with_s += other_s[k] * ss[k * size + i];
                with_s += other_y[k] * sy[i * size + k];
            }
            subtract(of_s, with_s, other_s, count);
            subtract(of_y, with_s, other_y, count);
            of_y[j] += sy[i * size + j] / (on->roots[j] * on->roots[j]);
        }
        double square = 0;
        for (int64_t k = 0; k <= i; k++) {
            square += of_s[k] * ss[k * size + i];
            square += of_y[k] * sy[i * size + k];
        }
        if (!(0 < square && square < INFINITY))
            return 0;
        const double root = sqrt(square);
        for (int64_t k = 0; k < count; k++) {
            of_s[k] /= root;
            of_y[k] /= root;
        }
    }
    return 1;
}

/* Set the matrices of the system of equations, factorized, and `rest`; return whether they are positive definite. */
static int set_system(const fo_subspace *on, const fo_history *history)
{
    const int64_t m = on->count, size = history->size;
    const double *restrict yy = history->free + 2 * size * size, *restrict y_grad = history->grad_products + size;
    const fo_view free_ss = {history->free, size, 1}, free_sy = {history->free + size * size, size, 1};
    const fo_view free_yy = {yy, size, 1}, of_s = square(on->of_s, m), of_y = square(on->of_y, m);
    add_products(on->with_s, on->product, of_s, free_ss, of_y, transposed(free_sy), m, m);
    add_products(on->with_y, on->product, of_s, free_sy, of_y, free_yy, m, m);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < m; j++) {
            on->upper[i * m + j] = on->theta * (i == j) + yy[i * size + j] / (on->roots[i] * on->roots[j]);
            on->ac[i * m + j] = on->with_y[j * m + i] / on->roots[i];
        }
        on->rest[i] = y_grad[i] / on->roots[i];
    }
    if (!factorize(on->upper, m))
        return 0;
    solve_forward(on->upper, on->ac, m, m);
    solve_forward(on->upper, on->rest, m, 1);
    add_products(on->lower, on->product, square(on->with_s, m), transposed(of_s), square(on->with_y, m),
                 transposed(of_y), m, m);
    multiply(on->product, transposed(square(on->ac, m)), square(on->ac, m), m, m, m);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < m; j++) {
            const int64_t k = i * m + j;
            on->lower[k] = (on->theta * (i == j) - on->lower[k]) + on->product[k];
        }
    return factorize(on->lower, m);
}

/* Set u and v, the solution of the system of equations. */
static void solve(const fo_subspace *on, const fo_history *history)
{
    const int64_t m = on->count;
    const fo_view ac = square(on->ac, m);
    add_products(on->c_grad, on->product, square(on->of_s, m), column(history->grad_products), square(on->of_y, m),
                 column(history->grad_products + history->size), m, 1);
    multiply(on->v, transposed(ac), column(on->rest), m, m, 1);
    subtract(on->v, 1, on->c_grad, m);
    solve_forward(on->lower, on->v, m, 1);
    solve_backward(on->lower, on->v, m);
    multiply(on->product, ac, column(on->v), m, m, 1);
    for (int64_t i = 0; i < m; i++)
        on->u[i] = on->rest[i] - on->product[i];
    solve_backward(on->upper, on->u, m);
}

int fo_subspace_factors(const fo_history *history, int64_t count, double *of_grad)
{
    const fo_subspace on = subspace_of(history, count);
    if (!set_curved_columns(&on, history) || !set_system(&on, history))
        return 0;
    solve(&on, history);
    double *restrict s_factors = on.c_grad, *restrict y_factors = on.rest;
    multiply(s_factors, transposed(square(on.of_s, count)), column(on.v), count, count, 1);
    multiply(y_factors, transposed(square(on.of_y, count)), column(on.v), count, count, 1);
    int are_finite = 1;
    for (int64_t i = 0; i < count; i++) {
        double *factors = history->factors + 2 * i;
        factors[0] = s_factors[i] / on.theta;
        factors[1] = (y_factors[i] + on.u[i] / on.roots[i]) / on.theta;
        are_finite &= fabs(factors[0]) < INFINITY && fabs(factors[1]) < INFINITY;
    }
    *of_grad = -1.0 / on.theta;
    return are_finite;
}
