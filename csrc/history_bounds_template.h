/* The loops of the history of L-BFGS that deal with bounds, for one compute dtype and one instruction set.
   fastopt/backends/numpy/bounded_history.py is the twin.

   history_template.h includes this file. */

/* The bounds of a block of elements. */
typedef struct {
    REAL lower[FO_BLOCK], upper[FO_BLOCK];
} NAME(bounds);

/* Return whether a bound is active: the element is at it, and the descent leads out. */
static FO_INLINE int NAME(is_active)(REAL x, REAL g, REAL lower, REAL upper)
{
    return ((x <= lower) & (g > 0)) | ((x >= upper) & (g < 0));
}

/* free_grad <- the gradient, with zeros where a bound is active. */
static void NAME(free_block)(REAL *restrict free_grad, const REAL *restrict x, const REAL *restrict g,
                             const NAME(bounds) *restrict bounds, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        free_grad[i] = NAME(is_active)(x[i], g[i], bounds->lower[i], bounds->upper[i]) ? (REAL)0 : g[i];
}

/* projection <- x - clip(x - g), without the rounding of its differences. */
static void NAME(project_block)(REAL *restrict projection, const REAL *restrict x, const REAL *restrict g,
                                const NAME(bounds) *restrict bounds, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++) {
        const REAL down = x[i] - bounds->lower[i], up = x[i] - bounds->upper[i];
        const REAL limited = g[i] > down ? down : g[i];
        projection[i] = limited < up ? up : limited;
    }
}

/* Return how many elements of a gradient are 0 in the free one alone. */
static int64_t NAME(count_zeroed)(const REAL *restrict grad, const REAL *restrict free_grad, int64_t length)
{
    int32_t count = 0;
    FO_SIMD_REDUCTION(+ : count)
    for (int64_t i = 0; i < length; i++)
        count += ((free_grad[i] == 0) & (grad[i] != 0)) ? 1 : 0;
    return count;
}

/* Return how many elements are free at one of two points alone. */
static int64_t NAME(count_changed)(const REAL *restrict x, const REAL *restrict g, const REAL *restrict old_x,
                                   const REAL *restrict old_g, const NAME(bounds) *restrict bounds, int64_t length)
{
    int32_t changed = 0;
    FO_SIMD_REDUCTION(+ : changed)
    for (int64_t i = 0; i < length; i++) {
        const int is_active = NAME(is_active)(x[i], g[i], bounds->lower[i], bounds->upper[i]);
        const int was_active = NAME(is_active)(old_x[i], old_g[i], bounds->lower[i], bounds->upper[i]);
        changed += is_active != was_active ? 1 : 0;
    }
    return changed;
}

/* x <- accepted + step * d, moved into the bounds. Return how many elements differ from the accepted point. */
static int64_t NAME(bounded_move_block)(REAL *restrict x, const REAL *restrict accepted, const REAL *restrict d,
                                        double step, const NAME(bounds) *restrict bounds, int64_t length)
{
    int32_t moved = 0;
    FO_SIMD_REDUCTION(+ : moved)
    for (int64_t i = 0; i < length; i++) {
        const REAL free_x = (REAL)((double)accepted[i] + step * (double)d[i]);
        const REAL raised = free_x < bounds->lower[i] ? bounds->lower[i] : free_x;
        x[i] = raised > bounds->upper[i] ? bounds->upper[i] : raised;
        moved += x[i] != accepted[i] ? 1 : 0;
    }
    return moved;
}

/* Stop the direction where a bound is active: there the gradient is not the free one. */
static void NAME(stop_direction)(REAL *restrict d, const REAL *restrict grad, const REAL *restrict free_grad,
                                 int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++) {
        const int is_active = (free_grad[i] == 0) & (grad[i] != 0);
        d[i] = is_active ? (REAL)0 : d[i];
    }
}

/* free <- the values, with zeros where a bound is active: there the gradient is not the free one. */
static void NAME(set_free)(REAL *restrict free, const REAL *restrict values, const REAL *restrict grad,
                           const REAL *restrict free_grad, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++) {
        const int is_active = (free_grad[i] == 0) & (grad[i] != 0);
        const REAL value = values[i];
        free[i] = is_active ? (REAL)0 : value;
    }
}

/* Return by how much the step is longer than the way along d to the first bound; 0: there is none. */
static double NAME(excess_of)(const REAL *restrict x, const REAL *restrict d, double step,
                              const NAME(bounds) *restrict bounds, int64_t length)
{
    enum { RUN = 64 }; /* as in largest_finite */
    double lanes[RUN] = {0}, excess = 0;
    for (int64_t begin = 0; begin < length; begin += RUN) {
        const int64_t size = length - begin < RUN ? length - begin : RUN;
        FO_SIMD
        for (int64_t i = 0; i < size; i++) {
            const REAL lower = bounds->lower[begin + i], upper = bounds->upper[begin + i], to = d[begin + i];
            const double room = fabs((double)(to > 0 ? upper : lower) - (double)x[begin + i]);
            const double ratio = fabs(step * (double)to) / room; /* NaN where both are 0 */
            lanes[i] = ratio > lanes[i] ? ratio : lanes[i];
        }
    }
    for (int i = 0; i < RUN; i++)
        excess = lanes[i] > excess ? lanes[i] : excess;
    return excess;
}

/* d <- the way from the accepted point to the parameters. */
static void NAME(set_way)(REAL *restrict d, const REAL *restrict x, const REAL *restrict accepted, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        d[i] = x[i] - accepted[i];
}
