/* The history of L-BFGS: the two-loop recursion on products, and the passes over the vectors.
   fastopt/backends/history.py has the twin of the numbers, fastopt/backends/numpy/history.py that of the passes. */
#include "history.h"
#include "isa.h"
#include "parallel.h"
#include "subspace.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* The numbers of `state` and `trial`; the stages of a trial. */
enum { COUNT, ACCEPTED_GRAD, IS_AWAY, STAGE };
enum { STEP, D_SQUARE, CURVATURE, S_SQUARE, Y_SQUARE, FIRST_STEP };
enum { ACTIVE, ACTIVE_AT_TRIAL, CHANGED, KNOWN_PAIRS };
enum { NO_DIRECTION, DIRECTED, READ };

/* A pair joins the others if its curvature s'y is above this times |s| |y|. */
#define LEAST_CURVATURE 1e-10

/* An element of a pass costs as much as this many of a light one: half of one for each vector (measured). */
static int64_t work_of(const fo_history_pass *pass)
{
    return 1 + pass->count / 2;
}

typedef struct {
    const fo_kernels *kernels;
    const fo_history_pass *pass;
    fo_history_step step;
    int64_t rows;
} fo_visited;

static fo_partial *partial_of(const fo_visited *visited, int64_t chunk)
{
    const size_t size = sizeof(fo_partial) + (size_t)visited->rows * sizeof(double[2]);
    return (fo_partial *)((char *)visited->pass->history->partials + (size_t)chunk * size);
}

static void visit(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    const fo_visited *visited = context;
    const fo_array *array = &visited->pass->history->arrays[index];
    visited->kernels[array->dtype].history[visited->step](visited->pass, index, begin, end, partial_of(visited, chunk));
}

static int64_t chunks_of(const fo_history *history)
{
    const fo_array *last = &history->arrays[history->count - 1];
    return history->count == 0 ? 0 : last->first_chunk + (last->length + FO_CHUNK - 1) / FO_CHUNK;
}

/* Make a pass; totals[rows][2] <- the sums of all chunks, added in index order. Return how many elements were counted. */
static int64_t run(const fo_history_pass *pass, fo_history_step step, int64_t rows, int32_t threads,
                   double (*totals)[2], double *largest)
{
    const fo_history *history = pass->history;
    const fo_visited visited = {fo_kernels_in_use(), pass, step, rows};
    int64_t count = 0;
    const fo_mode before = fo_use_default_mode();
    fo_for_each_chunk(history->arrays, history->count, threads, work_of(pass), visit, &visited);
    *largest = 0;
    memset(totals, 0, (size_t)rows * sizeof totals[0]);
    const int64_t chunks = chunks_of(history);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const fo_partial *partial = partial_of(&visited, chunk);
        *largest = partial->largest > *largest ? partial->largest : *largest;
        count += partial->count;
        for (int64_t k = 0; k < rows; k++)
            for (int j = 0; j < 2; j++)
                totals[k][j] += partial->sums[k][j];
    }
    fo_restore_mode(before);
    return count;
}

/* The number of the direction's vector; there must be room for a pair. */
static int64_t direction_of(const fo_history *history)
{
    return history->direction < 0 ? 2 * history->slots[history->state[COUNT]] : history->direction;
}

/* The pass that reads the vectors of the oldest `count` pairs. */
static fo_history_pass pass_of(const fo_history *history, int64_t count)
{
    const int64_t grads[] = {history->first_grad, history->second_grad};
    const int64_t accepted = history->state[ACCEPTED_GRAD];
    for (int64_t i = 0; i < count; i++)
        for (int j = 0; j < 2; j++)
            history->numbers[2 * i + j] = 2 * history->slots[i] + j;
    return (fo_history_pass){.history = history,
                             .numbers = history->numbers,
                             .factors = history->factors,
                             .count = 2 * count,
                             .step = history->trial[STEP],
                             .grad = grads[accepted],
                             .old_grad = grads[accepted]};
}

/* Set the products of the oldest `count` pairs with the gradient, at the accepted point (0) or at the trial (1). */
static void set_grad_products(const fo_history *history, int64_t count, int at, double (*products)[2])
{
    double *with_s = history->grad_products + 2 * at * history->size, *with_y = with_s + history->size;
    for (int64_t i = 0; i < count; i++) {
        with_s[i] = history->steps[i] * products[2 * i][1];
        with_y[i] = products[2 * i + 1][1];
    }
}

void fo_history_begin(const fo_history *history, int32_t threads, double *reading)
{
    const int64_t count = history->state[COUNT];
    const fo_history_pass pass = pass_of(history, count);
    double (*totals)[2] = (double (*)[2])history->totals;
    double largest;
    const int64_t nonfinite = run(&pass, FO_HISTORY_BEGIN, 2 * count + 1, threads, totals, &largest);
    set_grad_products(history, count, 0, totals);
    history->state[IS_AWAY] = 0;
    history->state[STAGE] = NO_DIRECTION;
    const int64_t nothing_known[] = {-1, 0, 0, 0};
    memcpy(history->active, nothing_known, sizeof nothing_known);
    const double found[] = {0, 0, 0, 0, largest, totals[2 * count][1], (double)nonfinite};
    memcpy(reading, found, sizeof found);
}

/* Set the products of a pair's free s and y with the vectors of all pairs up to it. */
static void set_free_products(const fo_history *history, int64_t pair, double (*products)[2])
{
    const int64_t size = history->size;
    double *ss = history->free, *sy = ss + size * size, *yy = sy + size * size;
    for (int64_t i = 0; i <= pair; i++) {
        const double *with_s = products[2 * i], *with_y = products[2 * i + 1];
        ss[i * size + pair] = ss[pair * size + i] = with_s[0];
        sy[pair * size + i] = with_y[0];
        sy[i * size + pair] = with_s[1];
        yy[i * size + pair] = yy[pair * size + i] = with_y[1];
    }
}

/* Find the products of the pairs' free elements that are not known, and how many elements are not free. */
static void find_free_products(const fo_history *history, int32_t threads)
{
    const int64_t count = history->state[COUNT];
    double (*totals)[2] = (double (*)[2])history->totals;
    /* As many pairs at once as there are rows for: each reads the vectors of all before. */
    for (int64_t pair = history->active[KNOWN_PAIRS]; pair < count;) {
        int64_t end = pair, rows = 0;
        for (; end < count && rows + 2 * (end + 1) <= history->rows; end++)
            rows += 2 * (end + 1);
        fo_history_pass pass = pass_of(history, end);
        pass.first_pair = pair;
        double none;
        history->active[ACTIVE] = run(&pass, FO_HISTORY_FREE, rows, threads, totals, &none);
        for (int64_t row = 0; pair < end; row += 2 * (pair + 1), pair++)
            set_free_products(history, pair, totals + row);
    }
    history->active[KNOWN_PAIRS] = count;
}

/* Set the factors of the vectors s and y of each pair in the next direction without bounds; return that of the gradient.
   This is the two-loop recursion (Nocedal, 1980) on products instead of vectors. */
static double two_loop_factors(const fo_history *history)
{
    const int64_t count = history->state[COUNT], size = history->size;
    const double *sy = history->sy, *yy = history->yy, *with_s = history->grad_products, *with_y = with_s + size;
    double *deltas = history->factors, *alphas = deltas + 1; /* each of them in every second place */
    for (int64_t i = count - 1; i >= 0; i--) {
        double q = with_s[i];
        for (int64_t j = count - 1; j > i; j--)
            q -= alphas[2 * j] * sy[i * size + j];
        alphas[2 * i] = q / sy[i * size + i];
    }
    const int64_t newest = (count - 1) * size + count - 1;
    const double gamma = count > 0 ? sy[newest] / yy[newest] : 1;
    for (int64_t i = 0; i < count; i++) {
        double r = with_y[i];
        for (int64_t j = count - 1; j >= 0; j--)
            r -= alphas[2 * j] * yy[i * size + j];
        r *= gamma;
        for (int64_t j = 0; j < i; j++)
            r += deltas[2 * j] * sy[j * size + i];
        deltas[2 * i] = alphas[2 * i] - r / sy[i * size + i];
    }
    for (int64_t i = 0; i < count; i++) {
        deltas[2 * i] = -deltas[2 * i] * history->steps[i];
        alphas[2 * i] = gamma * alphas[2 * i];
    }
    return -gamma;
}

/* Set the factors in the next direction, of which that of the gradient is `of_grad`; return whether there is one. */
static int set_factors(const fo_history *history, int32_t threads, double *of_grad)
{
    const int64_t count = history->state[COUNT], *active = history->active;
    if (history->has_bounds && count > 0 && active[ACTIVE] != 0) {
        if (active[KNOWN_PAIRS] < count)
            find_free_products(history, threads);
        if (active[ACTIVE] != 0)
            return fo_subspace_factors(history, count, of_grad);
    }
    *of_grad = two_loop_factors(history);
    return 1;
}

/* Drop the oldest pair if there is no room for another one. */
static void make_room(const fo_history *history)
{
    const int64_t size = history->size, rest = size - 1, oldest = history->slots[0];
    const size_t length = (size_t)rest * sizeof(double);
    if (history->state[COUNT] < size)
        return;
    memmove(history->slots, history->slots + 1, (size_t)rest * sizeof(int64_t));
    history->slots[rest] = oldest;
    memmove(history->steps, history->steps + 1, length);
    double *const products[] = {history->sy,
                                history->yy,
                                history->ss,
                                history->free,
                                history->free + size * size,
                                history->free + 2 * size * size};
    for (size_t k = 0; k < sizeof products / sizeof products[0]; k++)
        for (int64_t i = 0; i < rest; i++)
            memmove(products[k] + i * size, products[k] + (i + 1) * size + 1, length);
    history->active[KNOWN_PAIRS] -= history->active[KNOWN_PAIRS] > 0;
    for (int j = 0; j < 2; j++)
        memmove(history->grad_products + j * size, history->grad_products + j * size + 1, length);
    history->state[COUNT]--;
}

/* Make the direction and the first trial; return how many elements moved. */
static int64_t lead(const fo_history *history, fo_history_pass *pass, double step, int32_t threads, double *totals,
                    double *excess)
{
    history->trial[STEP] = step;
    history->state[IS_AWAY] = 1;
    history->state[STAGE] = DIRECTED;
    pass->step = step;
    return run(pass, FO_HISTORY_DIRECT, 1, threads, (double (*)[2])totals, excess);
}

void fo_history_direct(const fo_history *history, double step, int32_t threads, double *move)
{
    double of_grad;
    const fo_mode before = fo_use_default_mode();
    if (!set_factors(history, threads, &of_grad)) {
        memset(move, 0, 5 * sizeof(double)); /* NO_MOVE */
        fo_restore_mode(before);
        return;
    }
    fo_history_pass pass = pass_of(history, history->state[COUNT]); /* of all pairs */
    make_room(history);
    pass.direction = direction_of(history);
    pass.of_grad = of_grad;
    double totals[2], excess;
    int64_t moved = lead(history, &pass, step, threads, totals, &excess);
    if (history->has_bounds && !(totals[0] < 0) && 1 < excess && excess < INFINITY) {
        fo_history_put_back(history, threads); /* the way along the bounds ascends: go to the first of them */
        step /= excess;
        moved = lead(history, &pass, step, threads, totals, &excess);
    }
    history->trial[D_SQUARE] = totals[1];
    double longest = INFINITY;
    if (history->has_bounds) {
        history->trial[STEP] = 1;
        history->trial[FIRST_STEP] = step;
        longest = excess == 0 ? INFINITY : step / (excess < 1 ? excess : 1);
        totals[0] /= step;
        totals[1] /= step * step;
    }
    const double found[] = {totals[0], totals[1], (double)moved, step, longest};
    memcpy(move, found, sizeof found);
    fo_restore_mode(before);
}

int64_t fo_history_try_step(const fo_history *history, double step, int32_t threads)
{
    const fo_mode before = fo_use_default_mode();
    history->trial[STEP] = step / history->trial[FIRST_STEP];
    fo_restore_mode(before);
    history->state[IS_AWAY] = 1;
    history->state[STAGE] = DIRECTED;
    fo_history_pass pass = pass_of(history, 0);
    pass.direction = direction_of(history);
    double no_totals[1][2], none;
    return run(&pass, FO_HISTORY_TRY_STEP, 0, threads, no_totals, &none);
}

/* Set the numbers of the trial's pair: the last of the pairs whose products these are. */
static void set_trial(const fo_history *history, double step, double s_square, double (*products)[2])
{
    const int64_t size = history->size, new = history->state[COUNT];
    double *trial = history->trial;
    history->steps[new] = step;
    for (int64_t i = 0; i <= new; i++) {
        history->sy[i * size + new] = history->steps[i] * products[2 * i][0];
        history->yy[i * size + new] = history->yy[new * size + i] = products[2 * i + 1][0];
    }
    set_grad_products(history, new + 1, 1, products);
    trial[CURVATURE] = history->sy[new * size + new];
    trial[S_SQUARE] = s_square;
    trial[Y_SQUARE] = history->yy[new * size + new];
}

/* Set the products of the trial's s with the vectors of each pair, the trial's last. */
static void set_s_products(const fo_history *history, double (*products)[2])
{
    const int64_t size = history->size, new = history->state[COUNT];
    for (int64_t i = 0; i <= new; i++) {
        history->ss[i * size + new] = history->ss[new * size + i] = products[2 * i][0];
        history->sy[new * size + i] = products[2 * i + 1][0];
    }
}

void fo_history_read(const fo_history *history, int32_t threads, double *reading)
{
    const int64_t count = history->state[COUNT], vectors = 2 * (count + 1);
    const int64_t rows = history->has_bounds ? 2 * vectors + 2 : vectors + 1;
    fo_history_pass pass = pass_of(history, count + 1);
    pass.direction = direction_of(history);
    pass.grad = history->state[ACCEPTED_GRAD] ? history->first_grad : history->second_grad;
    double (*totals)[2] = (double (*)[2])history->totals;
    const double *trial = history->trial, step = trial[STEP];
    double largest, slope = 0;
    const int64_t nonfinite = run(&pass, FO_HISTORY_READ, rows, threads, totals, &largest);
    const fo_mode before = fo_use_default_mode();
    if (history->has_bounds) {
        double (*with_s)[2] = totals + vectors + 1;
        set_trial(history, 1, with_s[vectors - 2][0], totals);
        set_s_products(history, with_s);
        set_free_products(history, count, with_s); /* right if the same elements are free: s is 0 elsewhere */
        history->active[ACTIVE_AT_TRIAL] = (int64_t)totals[rows - 1][1];
        history->active[CHANGED] = (int64_t)totals[vectors][0];
        slope = totals[rows - 1][0] / trial[FIRST_STEP];
    } else {
        set_trial(history, step, step * step * trial[D_SQUARE], totals);
        slope = totals[2 * count][1];
    }
    fo_restore_mode(before);
    history->state[STAGE] = READ;
    const double found[] = {slope,   trial[CURVATURE],   trial[S_SQUARE],  trial[Y_SQUARE],
                            largest, totals[vectors][1], (double)nonfinite};
    memcpy(reading, found, sizeof found);
}

/* Return whether a pair of these numbers makes the next directions descend, and no factor infinite. */
static int is_curved(double curvature, double s_square, double y_square)
{
    if (!(0 < y_square && y_square < INFINITY && s_square < INFINITY))
        return 0;
    const double least = LEAST_CURVATURE * (sqrt(s_square) * sqrt(y_square));
    return least < curvature && curvature < INFINITY && curvature / y_square < INFINITY;
}

int32_t fo_history_accept(const fo_history *history)
{
    const fo_mode before = fo_use_default_mode();
    const int joins = is_curved(history->trial[CURVATURE], history->trial[S_SQUARE], history->trial[Y_SQUARE]);
    fo_restore_mode(before);
    const size_t length = (size_t)(2 * history->size) * sizeof(double);
    memcpy(history->grad_products, history->grad_products + 2 * history->size, length);
    const int64_t *active = history->active, known = active[KNOWN_PAIRS];
    const int64_t kept = known + (joins && known == history->state[COUNT]);
    const int64_t now[] = {active[ACTIVE_AT_TRIAL], 0, 0, active[CHANGED] ? 0 : kept};
    memcpy(history->active, now, sizeof now);
    history->state[COUNT] += joins;
    history->state[ACCEPTED_GRAD] = 1 - history->state[ACCEPTED_GRAD];
    history->state[IS_AWAY] = 0;
    history->state[STAGE] = NO_DIRECTION;
    return joins;
}

void fo_history_put_back(const fo_history *history, int32_t threads)
{
    if (history->state[IS_AWAY]) {
        const fo_history_pass pass = pass_of(history, 0);
        double no_totals[1][2], none;
        run(&pass, FO_HISTORY_PUT_BACK, 0, threads, no_totals, &none);
    }
    history->state[IS_AWAY] = 0;
    if (history->state[STAGE] == READ)
        history->state[STAGE] = DIRECTED;
}
