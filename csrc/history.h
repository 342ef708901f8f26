/* The history of L-BFGS: its vectors and their numbers. cffi reads this file too, without the lines that begin with #.

   A pass works on one chunk of all vectors at a time. fastopt/backends/history.py says how the vectors lie in memory
   (class Vectors) and describes the numbers (class Pairs). */
#ifndef FO_HISTORY_H
#define FO_HISTORY_H

#include <stdint.h>

#include "fastopt.h"

typedef struct {
    const fo_array *arrays; /* of the table: parameters and bounds of single elements */
    void *const *grads;     /* none is NULL */
    int64_t count;          /* of arrays */
    void *const *vectors;   /* where the vectors of each array begin */
    const double *lower;    /* the bounds of each array; infinite: none */
    const double *upper;
    int32_t has_bounds;                                   /* 0: neither arrays nor elements have bounds */
    int64_t vector_count;                                 /* how many vectors there are, and the numbers of some */
    int64_t first_grad, second_grad, accepted, direction; /* direction: -1 if it is the next pair's s */
    int64_t size;                                         /* how many pairs there is room for */
    int64_t *state, *slots;
    double *steps, *sy, *yy, *ss, *free, *grad_products, *trial;
    int64_t *active;
    int64_t *numbers; /* room for 2 (size + 1) */
    double *factors;  /* as many */
    double *scratch;  /* with bounds: room for size (8 size + 5) */
    int64_t rows;     /* at least 4 size + 2 */
    double *totals;   /* room for so many rows of 2 numbers */
    double *partials; /* for each chunk as much, and 2 numbers more */
} fo_history;

/* See fastopt/backends/history.py. A reading is written as the seven numbers of Reading, a move as the five of Move. */
void fo_history_begin(const fo_history *history, int32_t threads, double *reading);
void fo_history_direct(const fo_history *history, double step, int32_t threads, double *move);
int64_t fo_history_try_step(const fo_history *history, double step, int32_t threads);
void fo_history_read(const fo_history *history, int32_t threads, double *reading);
int32_t fo_history_accept(const fo_history *history);
void fo_history_put_back(const fo_history *history, int32_t threads);

#endif
