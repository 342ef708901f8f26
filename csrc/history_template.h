/* The passes over the history of L-BFGS for one compute dtype and one instruction set: history.h describes the vectors.
   fastopt/backends/numpy/history.py is the twin.

   pipeline_template.h includes this file, and describes what this template expects. */

#include "history_bounds_template.h"

enum {
    NAME(combined_at_once) = 4,
    NAME(group) = 32, /* vectors whose running sums are kept in the L1 cache */
};

/* Where the vectors of a chunk are. Their length is rounded up to whole lanes; at their ends they have zeros. */
typedef struct {
    REAL *vectors;
    int64_t stride, length, index, begin;
} NAME(chunk);

static NAME(chunk) NAME(chunk_of)(const fo_history *history, int64_t index, int64_t begin, int64_t end)
{
    const int64_t stride = (end - begin + FO_LANES - 1) / FO_LANES * FO_LANES;
    REAL *vectors = (REAL *)history->vectors[index] + begin * history->vector_count;
    return (NAME(chunk)){vectors, stride, end - begin, index, begin};
}

static REAL *NAME(vector_of)(const NAME(chunk) * chunk, int64_t number)
{
    return chunk->vectors + number * chunk->stride;
}

/* Ask for the memory that is read next. The L1 cache would be too small for it. */
static FO_INLINE void NAME(prefetch)(const REAL *next)
{
    for (int k = 0; k < FO_LANES; k += (int)(64 / sizeof(REAL)))
        FO_PREFETCH(next + k);
}

/* Multiply `count` vectors, a constant, with y and g, and add the products to their lanes. */
static FO_INLINE void NAME(dots_at_once)(const REAL *const *vectors, const REAL *const *next, int count,
                                         const double *y, const double *g, int64_t length, double (*lanes)[2][FO_LANES])
{
    enum { PARTS = FO_LANES / DOUBLES };
    fo_vector with_y[VECTORS_AT_ONCE][PARTS], with_g[VECTORS_AT_ONCE][PARTS];
    for (int j = 0; j < count; j++)
        for (int k = 0; k < PARTS; k++) {
            with_y[j][k] = LOAD_FLOAT64(lanes[j][0] + k * DOUBLES);
            with_g[j][k] = LOAD_FLOAT64(lanes[j][1] + k * DOUBLES);
        }
    for (int64_t i = 0; i < length; i += FO_LANES) {
        for (int j = 0; j < count; j++)
            NAME(prefetch)(next[j] + i);
        for (int k = 0; k < PARTS; k++) {
            const fo_vector yk = LOAD_FLOAT64(y + i + k * DOUBLES), gk = LOAD_FLOAT64(g + i + k * DOUBLES);
            for (int j = 0; j < count; j++) {
                const fo_vector x = LOAD(vectors[j] + i + k * DOUBLES);
                with_y[j][k] += x * yk;
                with_g[j][k] += x * gk;
            }
        }
    }
    for (int j = 0; j < count; j++)
        for (int k = 0; k < PARTS; k++) {
            STORE(lanes[j][0] + k * DOUBLES, with_y[j][k]);
            STORE(lanes[j][1] + k * DOUBLES, with_g[j][k]);
        }
}

static void NAME(dots_block)(const REAL *const *vectors, const REAL *const *next, int count, const double *y,
                             const double *g, int64_t length, double (*lanes)[2][FO_LANES])
{
    int j = 0;
    for (; j + VECTORS_AT_ONCE <= count; j += VECTORS_AT_ONCE)
        NAME(dots_at_once)(vectors + j, next + j, VECTORS_AT_ONCE, y, g, length, lanes + j);
    for (; j < count; j++)
        NAME(dots_at_once)(vectors + j, next + j, 1, y, g, length, lanes + j);
}

/* Return a block in double precision: its own memory, or `scratch`. */
static const double *NAME(in_double)(double *restrict scratch, const REAL *restrict values, int64_t length)
{
#if STORED
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        scratch[i] = (double)values[i];
    return scratch;
#else
    (void)scratch, (void)length;
    return values;
#endif
}

/* sums[k] <- the products of vector k with y and with g, in the order of all sums. `length` is whole lanes. */
static void NAME(dots)(const REAL *const *vectors, int count, const REAL *y, const REAL *g, int64_t length,
                       double (*sums)[2])
{
    double y_scratch[FO_BLOCK], g_scratch[FO_BLOCK];
    double lanes[NAME(group)][2][FO_LANES];
    const REAL *here[NAME(group)], *next[NAME(group)];
    memset(lanes, 0, (size_t)count * sizeof lanes[0]);
    for (int64_t block = 0; block < length; block += FO_BLOCK) {
        const int64_t size = length - block < FO_BLOCK ? length - block : FO_BLOCK;
        const int is_last = block + FO_BLOCK >= length;
        for (int k = 0; k < count; k++)
            here[k] = vectors[k] + block;
        for (int k = 0; k < count; k++) {
            const int after = k + VECTORS_AT_ONCE;
            next[k] = after < count ? here[after] : is_last ? here[k] : here[after % count] + FO_BLOCK;
        }
        NAME(dots_block)(here, next, count, NAME(in_double)(y_scratch, y + block, size),
                         NAME(in_double)(g_scratch, g + block, size), size, lanes);
    }
    for (int k = 0; k < count; k++)
        for (int j = 0; j < 2; j++) {
            double *lane = lanes[k][j];
            for (int half = FO_LANES / 2; half > 0; half /= 2)
                for (int i = 0; i < half; i++)
                    lane[i] += lane[i + half];
            sums[k][j] = lane[0];
        }
}

/* The same of the vectors of the pass, then of others. */
static void NAME(dots_of_pass)(const fo_history_pass *pass, const NAME(chunk) * chunk, const REAL *const *others,
                               int64_t other_count, const REAL *y, const REAL *g, double (*sums)[2])
{
    const REAL *vectors[NAME(group)];
    const int64_t count = pass->count + other_count;
    for (int64_t first = 0; first < count; first += NAME(group)) {
        const int size = (int)(count - first < NAME(group) ? count - first : NAME(group));
        for (int k = 0; k < size; k++) {
            const int64_t i = first + k;
            vectors[k] = i < pass->count ? NAME(vector_of)(chunk, pass->numbers[i]) : others[i - pass->count];
        }
        NAME(dots)(vectors, size, y, g, chunk->stride, sums + first);
    }
}

/* Add `count` vectors, a constant, times their factors to the sums, one after the other. */
static FO_INLINE void NAME(combine_at_once)(double *restrict sums, const REAL *const *vectors, const REAL *const *next,
                                            const double *factors, int count, int64_t length)
{
    fo_vector factor[NAME(combined_at_once)];
    for (int j = 0; j < count; j++)
        factor[j] = factors[j] - (fo_vector){0};
    for (int64_t i = 0; i < length; i += FO_LANES) {
        for (int j = 0; j < count; j++)
            NAME(prefetch)(next[j] + i);
        for (int k = 0; k < FO_LANES; k += DOUBLES) {
            fo_vector sum = LOAD_FLOAT64(sums + i + k);
            for (int j = 0; j < count; j++)
                sum += factor[j] * LOAD(vectors[j] + i + k);
            STORE(sums + i + k, sum);
        }
    }
}

/* sums <- the combination of a block of the free gradient and of the vectors of the pass. */
static void NAME(combine_block)(double *restrict sums, const fo_history_pass *pass, const NAME(chunk) * chunk,
                                const REAL *restrict free_grad, int64_t block, int64_t length)
{
    enum { MANY = NAME(combined_at_once) };
    const REAL *here[MANY], *next[MANY];
    const double of_grad = pass->of_grad;
    const int is_last = block + FO_BLOCK >= chunk->stride;
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        sums[i] = of_grad * (double)free_grad[block + i];
    for (int64_t k = 0; k < pass->count; k += MANY) {
        const int size = (int)(pass->count - k < MANY ? pass->count - k : MANY);
        for (int j = 0; j < size; j++) {
            const int64_t after = k + MANY + j;
            here[j] = NAME(vector_of)(chunk, pass->numbers[k + j]) + block;
            next[j] = after < pass->count ? NAME(vector_of)(chunk, pass->numbers[after]) + block
                      : is_last           ? here[j]
                                          : NAME(vector_of)(chunk, pass->numbers[j]) + block + FO_BLOCK;
        }
        if (size == MANY)
            NAME(combine_at_once)(sums, here, next, pass->factors + k, MANY, length);
        else
            for (int j = 0; j < size; j++)
                NAME(combine_at_once)(sums, here + j, next + j, pass->factors + k + j, 1, length);
    }
}

/* Get the bounds of a block. */
static void NAME(set_bounds)(NAME(bounds) *restrict bounds, const fo_history *history, const NAME(chunk) * chunk,
                             int64_t block, int64_t length)
{
    const fo_array *array = &history->arrays[chunk->index];
    const REAL low = (REAL)history->lower[chunk->index], high = (REAL)history->upper[chunk->index];
    const REAL *lows = (const REAL *)array->lower, *highs = (const REAL *)array->upper;
    for (int64_t i = 0; i < length; i++) {
        const int64_t place = chunk->begin + block + i;
        bounds->lower[i] = lows && lows[place] > low ? lows[place] : low;
        bounds->upper[i] = highs && highs[place] < high ? highs[place] : high;
    }
}

/* Return the largest finite magnitude, or `largest` if it is greater. */
static REAL NAME(largest_finite)(const REAL *x, int64_t length, REAL largest)
{
    enum {
        RUN = 64
    }; /* a reduction would not be vectorised: a maximum differs from the comparison where there is NaN */
    REAL lanes[RUN] = {0};
    for (int64_t begin = 0; begin < length; begin += RUN) {
        const int64_t size = length - begin < RUN ? length - begin : RUN;
        FO_SIMD
        for (int64_t i = 0; i < size; i++) {
            const REAL magnitude = ABSOLUTE(x[begin + i]) < (REAL)INFINITY ? ABSOLUTE(x[begin + i]) : 0;
            lanes[i] = magnitude > lanes[i] ? magnitude : lanes[i];
        }
    }
    for (int i = 0; i < RUN; i++)
        largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}

/* Read the gradient of a chunk into its vector. Return the free gradient: that vector, or `scratch` if there are bounds.
   Write what a partial says of the gradient. */
static const REAL *NAME(take_grad)(REAL *restrict scratch, const fo_history_pass *pass, const NAME(chunk) * chunk,
                                   fo_partial *partial)
{
    const fo_history *history = pass->history;
    const fo_array *array = &history->arrays[chunk->index];
    REAL *grad = NAME(vector_of)(chunk, pass->grad);
    REAL largest = 0;
    partial->count = 0;
    for (int64_t block = 0; block < chunk->length; block += FO_BLOCK) {
        const int64_t length = chunk->length - block < FO_BLOCK ? chunk->length - block : FO_BLOCK;
        const REAL *x = (const REAL *)array->param + chunk->begin + block, *projected_block = grad + block;
        REAL projection[FO_BLOCK];
        NAME(convert)(grad + block, history->grads[chunk->index], array->grad_dtype, chunk->begin + block, length);
        partial->count += NAME(nonfinite)(grad + block, length);
        if (history->has_bounds) {
            NAME(bounds) bounds;
            NAME(set_bounds)(&bounds, history, chunk, block, length);
            NAME(free_block)(scratch + block, x, grad + block, &bounds, length);
            NAME(project_block)(projection, x, grad + block, &bounds, length);
            projected_block = projection;
        }
        largest = NAME(largest_finite)(projected_block, length, largest);
    }
    partial->largest = (double)largest;
    if (!history->has_bounds)
        return grad;
    memset(scratch + chunk->length, 0, (size_t)(chunk->stride - chunk->length) * sizeof(REAL));
    return scratch;
}

/* Take the gradient; write its products and those of the vectors of the pass with the free gradient. */
static void NAME(history_begin)(const fo_history_pass *pass, int64_t index, int64_t begin, int64_t end,
                                fo_partial *partial)
{
    const NAME(chunk) chunk = NAME(chunk_of)(pass->history, index, begin, end);
    REAL scratch[FO_CHUNK];
    const REAL *free_grad = NAME(take_grad)(scratch, pass, &chunk, partial);
    NAME(dots_of_pass)(pass, &chunk, &free_grad, 1, free_grad, free_grad, partial->sums);
}

/* Take the gradient and make the pair, whose vectors are the last ones of the pass. Write the products of these vectors
   and of the gradient with y and with the gradient. With bounds: the free gradient, and how many elements are free at
   one of the two points alone instead of its product with y; then the vectors times s and times the free y; then the
   direction times the gradient, and how many elements are not free. */
static void NAME(history_read)(const fo_history_pass *pass, int64_t index, int64_t begin, int64_t end,
                               fo_partial *partial)
{
    const fo_history *history = pass->history;
    const NAME(chunk) chunk = NAME(chunk_of)(history, index, begin, end);
    REAL scratch[FO_CHUNK];
    const REAL *free_grad = NAME(take_grad)(scratch, pass, &chunk, partial);
    const REAL *restrict grad = NAME(vector_of)(&chunk, pass->grad);
    const REAL *restrict old_grad = NAME(vector_of)(&chunk, pass->old_grad);
    REAL *restrict y = NAME(vector_of)(&chunk, pass->numbers[pass->count - 1]);
    FO_SIMD
    for (int64_t i = 0; i < chunk.length; i++)
        y[i] = grad[i] - old_grad[i];
    if (!history->has_bounds) {
        NAME(dots_of_pass)(pass, &chunk, &free_grad, 1, y, free_grad, partial->sums);
        return;
    }
    const REAL *restrict x = (const REAL *)history->arrays[index].param + begin;
    const REAL *restrict accepted = NAME(vector_of)(&chunk, history->accepted);
    REAL *restrict s = NAME(vector_of)(&chunk, pass->numbers[pass->count - 2]);
    FO_SIMD
    for (int64_t i = 0; i < chunk.length; i++)
        s[i] = x[i] - accepted[i];
    NAME(dots_of_pass)(pass, &chunk, &free_grad, 1, y, free_grad, partial->sums);
    REAL free_y[FO_CHUNK];
    NAME(set_free)(free_y, y, grad, free_grad, chunk.length);
    memset(free_y + chunk.length, 0, (size_t)(chunk.stride - chunk.length) * sizeof(REAL));
    NAME(dots_of_pass)(pass, &chunk, NULL, 0, s, free_y, partial->sums + pass->count + 1);
    const REAL *const direction[] = {NAME(vector_of)(&chunk, pass->direction)};
    double (*last)[2] = partial->sums + 2 * pass->count + 1;
    NAME(dots)(direction, 1, grad, grad, chunk.stride, last);
    last[0][1] = (double)NAME(count_zeroed)(grad, free_grad, chunk.length);
    double *changed = &partial->sums[pass->count][0];
    *changed = 0;
    for (int64_t block = 0; block < chunk.length; block += FO_BLOCK) {
        const int64_t length = chunk.length - block < FO_BLOCK ? chunk.length - block : FO_BLOCK;
        NAME(bounds) bounds;
        NAME(set_bounds)(&bounds, history, &chunk, block, length);
        *changed +=
            (double)NAME(count_changed)(x + block, grad + block, accepted + block, old_grad + block, &bounds, length);
    }
}

/* x <- accepted + step * d. Return how many elements differ from the accepted point. */
static int64_t NAME(move_block)(REAL *restrict x, const REAL *restrict accepted, const REAL *restrict d, double step,
                                int64_t length)
{
    int32_t moved = 0;
    FO_SIMD_REDUCTION(+ : moved)
    for (int64_t i = 0; i < length; i++) {
        x[i] = (REAL)((double)accepted[i] + step * (double)d[i]);
        moved += x[i] != accepted[i] ? 1 : 0;
    }
    return moved;
}

static int64_t NAME(move)(const fo_history_pass *pass, const NAME(chunk) * chunk, int64_t block, int64_t length)
{
    const fo_history *history = pass->history;
    REAL *x = (REAL *)history->arrays[chunk->index].param + chunk->begin + block;
    const REAL *accepted = NAME(vector_of)(chunk, history->accepted) + block;
    const REAL *d = NAME(vector_of)(chunk, pass->direction) + block;
    if (!history->has_bounds)
        return NAME(move_block)(x, accepted, d, pass->step, length);
    NAME(bounds) bounds;
    NAME(set_bounds)(&bounds, history, chunk, block, length);
    return NAME(bounded_move_block)(x, accepted, d, pass->step, &bounds, length);
}

/* d <- the sums. */
static void NAME(set_direction)(REAL *restrict d, const double *restrict sums, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        d[i] = (REAL)sums[i];
}

/* Make the direction, keep the accepted point, and move. With bounds the direction then becomes the way to there. Write
   its products with the free gradient and with itself. The direction's vector may be one of the pass: its block is read before it is written. */
static void NAME(history_direct)(const fo_history_pass *pass, int64_t index, int64_t begin, int64_t end,
                                 fo_partial *partial)
{
    const fo_history *history = pass->history;
    const NAME(chunk) chunk = NAME(chunk_of)(history, index, begin, end);
    const REAL *x = (const REAL *)history->arrays[index].param + begin;
    const REAL *grad = NAME(vector_of)(&chunk, pass->grad);
    REAL *d = NAME(vector_of)(&chunk, pass->direction), *accepted = NAME(vector_of)(&chunk, history->accepted);
    REAL scratch[FO_CHUNK];
    const REAL *free_grad = history->has_bounds ? scratch : grad;
    memset(scratch + chunk.length, 0, (size_t)(chunk.stride - chunk.length) * sizeof(REAL));
    partial->largest = 0;
    partial->count = 0;
    for (int64_t block = 0; block < chunk.length; block += FO_BLOCK) {
        const int64_t length = chunk.length - block < FO_BLOCK ? chunk.length - block : FO_BLOCK;
        double sums[FO_BLOCK];
        NAME(bounds) bounds;
        if (history->has_bounds) {
            NAME(set_bounds)(&bounds, history, &chunk, block, length);
            NAME(free_block)(scratch + block, x + block, grad + block, &bounds, length);
        }
        NAME(combine_block)(sums, pass, &chunk, free_grad, block,
                            chunk.stride - block < FO_BLOCK ? chunk.stride - block : FO_BLOCK);
        NAME(set_direction)(d + block, sums, length);
        if (history->has_bounds)
            NAME(stop_direction)(d + block, grad + block, free_grad + block, length);
        memcpy(accepted + block, x + block, (size_t)length * sizeof(REAL));
        if (history->has_bounds) {
            const double excess = NAME(excess_of)(x + block, d + block, pass->step, &bounds, length);
            partial->largest = excess > partial->largest ? excess : partial->largest;
        }
        partial->count += NAME(move)(pass, &chunk, block, length);
        if (history->has_bounds)
            NAME(set_way)(d + block, x + block, accepted + block, length);
    }
    const REAL *const direction[] = {d};
    NAME(dots)(direction, 1, free_grad, d, chunk.stride, partial->sums);
}

/* Write the products of the free s and y of each pair with the vectors of all pairs up to it. */
static void NAME(history_free)(const fo_history_pass *pass, int64_t index, int64_t begin, int64_t end,
                               fo_partial *partial)
{
    const fo_history *history = pass->history;
    const NAME(chunk) chunk = NAME(chunk_of)(history, index, begin, end);
    const REAL *x = (const REAL *)history->arrays[index].param + begin;
    const REAL *grad = NAME(vector_of)(&chunk, pass->grad);
    REAL free_grad[FO_CHUNK], s[FO_CHUNK], y[FO_CHUNK];
    for (int64_t block = 0; block < chunk.length; block += FO_BLOCK) {
        const int64_t length = chunk.length - block < FO_BLOCK ? chunk.length - block : FO_BLOCK;
        NAME(bounds) bounds;
        NAME(set_bounds)(&bounds, history, &chunk, block, length);
        NAME(free_block)(free_grad + block, x + block, grad + block, &bounds, length);
    }
    const size_t rest = (size_t)(chunk.stride - chunk.length) * sizeof(REAL);
    memset(s + chunk.length, 0, rest);
    memset(y + chunk.length, 0, rest);
    partial->largest = 0;
    partial->count = NAME(count_zeroed)(grad, free_grad, chunk.length);
    double (*sums)[2] = partial->sums;
    for (int64_t pair = pass->first_pair; 2 * pair < pass->count; pair++) {
        fo_history_pass upto = *pass;
        upto.count = 2 * (pair + 1);
        NAME(set_free)(s, NAME(vector_of)(&chunk, pass->numbers[2 * pair]), grad, free_grad, chunk.length);
        NAME(set_free)(y, NAME(vector_of)(&chunk, pass->numbers[2 * pair + 1]), grad, free_grad, chunk.length);
        NAME(dots_of_pass)(&upto, &chunk, NULL, 0, s, y, sums);
        sums += upto.count;
    }
}

static void NAME(history_try_step)(const fo_history_pass *pass, int64_t index, int64_t begin, int64_t end,
                                   fo_partial *partial)
{
    const NAME(chunk) chunk = NAME(chunk_of)(pass->history, index, begin, end);
    partial->largest = 0;
    partial->count = 0;
    for (int64_t block = 0; block < chunk.length; block += FO_BLOCK)
        partial->count +=
            NAME(move)(pass, &chunk, block, chunk.length - block < FO_BLOCK ? chunk.length - block : FO_BLOCK);
}

static void NAME(history_put_back)(const fo_history_pass *pass, int64_t index, int64_t begin, int64_t end,
                                   fo_partial *partial)
{
    const fo_history *history = pass->history;
    const NAME(chunk) chunk = NAME(chunk_of)(history, index, begin, end);
    partial->largest = 0;
    partial->count = 0;
    memcpy((REAL *)history->arrays[index].param + begin, NAME(vector_of)(&chunk, history->accepted),
           (size_t)chunk.length * sizeof(REAL));
}
