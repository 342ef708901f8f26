/* A hash of a few iterations of L-BFGS's history, with its vectors in guarded memory. */
#ifndef HISTORIES_H
#define HISTORIES_H

#include "history.h"
#include "workload.h"

enum { PAIRS = 4, MOST_VECTORS = 2 * PAIRS + 4, MOST_ROWS = 4 * PAIRS + 2, MOST_CHUNKS = 200 };

/* The buffers of a history, and its numbers. */
typedef struct {
    fo_history history;
    room rooms[MOST_ARRAYS];
    void *vectors[MOST_ARRAYS];
    double lower[MOST_ARRAYS], upper[MOST_ARRAYS];
    int64_t state[4], slots[PAIRS], numbers[2 * PAIRS + 2];
    int64_t active[4];
    double steps[PAIRS], sy[PAIRS * PAIRS], yy[PAIRS * PAIRS], ss[PAIRS * PAIRS], free[3 * PAIRS * PAIRS];
    double grad_products[4 * PAIRS], trial[6];
    double factors[2 * PAIRS + 2], scratch[PAIRS * (8 * PAIRS + 5)], totals[2 * MOST_ROWS],
        partials[MOST_CHUNKS * 2 * (MOST_ROWS + 1)];
} histories;

static histories *new_histories(const table *of)
{
    histories *new = calloc(1, sizeof *new);
    if (!new || of->chunks > MOST_CHUNKS)
        exit(1);
    for (int64_t i = 0; i < of->count; i++)
        new->rooms[i] = room_for((size_t)((of->lengths[i] + FO_LANES) * MOST_VECTORS) * sizeof(double));
    return new;
}

/* A history of a table that has been set up. Every other array has bounds of its own. */
static const fo_history *set_up_history(histories *new, const table *of, int32_t dtype, int has_bounds)
{
    const int64_t vector_count = 2 * PAIRS + 3 + (has_bounds ? 1 : 0);
    for (int64_t i = 0; i < of->count; i++) {
        const int64_t length = (of->lengths[i] + FO_LANES - 1) / FO_LANES * FO_LANES * vector_count;
        new->vectors[i] = put(new->rooms[i], of->at[SLOT], length, formats[dtype].size);
        memset(new->vectors[i], 0, (size_t)length * formats[dtype].size);
        new->lower[i] = has_bounds &&i % 2 ? -0.25 : -INFINITY;
        new->upper[i] = has_bounds &&i % 2 ? 0.5 : INFINITY;
    }
    memset(new->state, 0, sizeof new->state);
    new->trial[5] = 1;
    for (int k = 0; k < PAIRS; k++)
        new->slots[k] = k;
    new->history = (fo_history){.arrays = of->arrays,
                                .grads = of->grads,
                                .count = of->count,
                                .vectors = new->vectors,
                                .lower = new->lower,
                                .upper = new->upper,
                                .has_bounds = has_bounds,
                                .vector_count = vector_count,
                                .first_grad = 2 * PAIRS,
                                .second_grad = 2 * PAIRS + 1,
                                .accepted = 2 * PAIRS + 2,
                                .direction = has_bounds ? vector_count - 1 : -1,
                                .size = PAIRS,
                                .state = new->state,
                                .slots = new->slots,
                                .steps = new->steps,
                                .sy = new->sy,
                                .yy = new->yy,
                                .ss = new->ss,
                                .free = new->free,
                                .active = new->active,
                                .rows = MOST_ROWS,
                                .grad_products = new->grad_products,
                                .trial = new->trial,
                                .numbers = new->numbers,
                                .factors = new->factors,
                                .scratch = new->scratch,
                                .totals = new->totals,
                                .partials = new->partials};
    return &new->history;
}

/* Gradients of tame numbers, others for each seed. */
static void new_grads(table *of, int32_t dtype, uint64_t seed)
{
    for (int64_t i = 0; i < of->count; i++)
        of->grads[i] = filled(of, i, GRAD, dtype, TAME, seed * 100 + (uint64_t)i);
}

static uint64_t hash_params(uint64_t hash, const table *of)
{
    for (int64_t i = 0; i < of->count; i++)
        hash = hash_numbers(hash, of->arrays[i].param, of->arrays[i].length, of->arrays[i].dtype);
    return hash;
}

static uint64_t hash_history(uint64_t hash, table *of, histories *memory, const storage *stored, int has_bounds,
                             int32_t threads)
{
    double found[7];
    set_up(of, 0, stored, has_bounds ? ARRAY_BOUNDS : 0);
    const fo_history *history = set_up_history(memory, of, stored->dtype, has_bounds);
    fo_history_begin(history, threads, found); /* some arrays have infinities and NaN */
    hash = hash_numbers(hash, found, 7, FO_FLOAT64);
    for (int64_t i = 0; i < of->count; i++) {
        fo_array *array = &of->arrays[i];
        array->param = filled(of, i, PARAM, stored->dtype, TAME, (uint64_t)i);
        if (array->lower)
            array->lower = filled(of, i, LOWER, stored->dtype, TAME, (uint64_t)i);
        if (array->upper)
            array->upper = filled(of, i, UPPER, stored->dtype, TAME, (uint64_t)i);
    }
    new_grads(of, stored->grad_dtype, 0);
    fo_history_begin(history, threads, found);
    for (uint64_t k = 1; k < 2 * PAIRS; k++) {
        fo_history_direct(history, k == 1 ? 0.25 : 1, threads, found);
        if (has_bounds) {
            hash = hash_numbers(hash, history->free, 3 * PAIRS * PAIRS, FO_FLOAT64);
            hash = hash_integers(hash, history->active, 4);
        }
        hash = hash_params(hash_numbers(hash, found, 5, FO_FLOAT64), of);
        const int64_t moved = fo_history_try_step(history, 0.375, threads);
        new_grads(of, stored->grad_dtype, k);
        fo_history_read(history, threads, found);
        hash = hash_integers(hash_numbers(hash, found, 7, FO_FLOAT64), &moved, 1);
        if (k % 3 == 0) {
            fo_history_put_back(history, threads);
            hash = hash_params(hash, of);
            fo_history_try_step(history, 0.5, threads);
            fo_history_read(history, threads, found);
        }
        fo_history_accept(history);
        hash = hash_integers(hash, history->state, 2);
    }
    return hash;
}

#endif
