/* The kernels that every instruction set provides, and which set is in use. */
#ifndef FO_ISA_H
#define FO_ISA_H

#include "compiler.h"
#include "fastopt.h"
#include "history.h"

/* The passes over the history of L-BFGS. */
typedef enum {
    FO_HISTORY_BEGIN,
    FO_HISTORY_FREE,
    FO_HISTORY_DIRECT,
    FO_HISTORY_TRY_STEP,
    FO_HISTORY_READ,
    FO_HISTORY_PUT_BACK,
    FO_HISTORY_STEPS
} fo_history_step;

/* One pass. `numbers` are those of the vectors that it reads, the oldest first, of which direct adds up `factors`, after
   `of_grad` times the gradient. */
typedef struct {
    const fo_history *history;
    const int64_t *numbers;
    const double *factors;
    int64_t count, first_pair; /* the free products of the pairs before are known */
    double of_grad, step;
    int64_t grad, old_grad, direction; /* numbers of vectors */
} fo_history_pass;

/* The findings of a pass in one chunk. */
typedef struct {
    double largest; /* magnitude in the projected gradient, or excess of the step: see bounded_history.py */
    int64_t count;  /* of elements that are not finite, that moved, or that are not free */
    double sums[][2];
} fo_partial;

typedef void fo_history_kernel(const fo_history_pass *pass, int64_t index, int64_t begin, int64_t end,
                               fo_partial *partial);

/* The kernels of one dtype. Those of a chunk work on elements [begin, end) of one array; sum_squares is as
   fo_sum_squares. bfgs_panel does the work of fo_bfgs_pass on the rows from `first` on: it writes their products without
   the columns behind the panel, and for the rows before them the sums of this panel's columns. */
typedef struct {
    void (*step_chunk)(const fo_array *array, void *grad, int64_t begin, int64_t end, const fo_hyper *hyper);
    void (*accumulate_chunk)(const fo_array *array, void *grad, int64_t begin, int64_t end, const fo_hyper *hyper);
    fo_reading (*sum_products_chunk)(const fo_array *array, const void *grad, int64_t begin, int64_t end,
                                     const fo_hyper *hyper, int32_t left, int32_t right, int32_t count_nonfinite);
    void (*sum_squares)(const void *values, int64_t outer, int64_t size, int64_t inner, double *sums);
    /* In double precision alone. */
    double (*dot)(const double *left, const double *right, int64_t size);
    void (*bfgs_panel)(double *panel, int64_t first, int64_t rows, const fo_bfgs_vectors *vectors, double *column_y,
                       double *column_g, double *product_y, double *product_g);
    /* These two work on rows [begin, end), at most CODING_ROWS of coordinates.h. */
    void (*multiply_rows)(const fo_coding *coding, int64_t begin, int64_t end, void *products, double *sums);
    void (*code_rows)(const fo_coding *coding, int64_t begin, int64_t end, void *scratch);
    fo_history_kernel *history[FO_HISTORY_STEPS];
} fo_kernels;

/* Indexed by fo_dtype. */
extern const fo_kernels fo_kernels_baseline[];
#if FO_HAS_X86_TARGETS
extern const fo_kernels fo_kernels_avx2[];
extern const fo_kernels fo_kernels_avx512[];
#endif

const fo_kernels *fo_kernels_of(int32_t isa);
const fo_kernels *fo_kernels_in_use(void);

#endif
