/* The contract between Python and C. tools/ffi_build.py feeds this very file to cffi (less the lines that begin with #). */
#ifndef FASTOPT_H
#define FASTOPT_H

#include <stdint.h>

enum {
    FO_BLOCK = 1024,      /* elements that pass through all stages while they sit in the L1 cache */
    FO_CHUNK = 4096,      /* elements of one array that one thread takes at a time; one partial sum of a norm */
    FO_LANES = 16,        /* running sums inside a partial sum; part of what makes a norm's bits */
    FO_SCALE_BLOCK = 256, /* elements that share a scale in 8-bit storage, and a random number in dithered storage */
    FO_MAX_SLOTS = 6,
    FO_MAX_SCALARS = 16
};

/* The last two are of slots alone: 8 bits with a scale for each FO_SCALE_BLOCK elements, as quantize.h has them. */
typedef enum { FO_FLOAT32, FO_FLOAT64, FO_FLOAT16, FO_BFLOAT16, FO_SIGNED8, FO_ROOT8 } fo_dtype;

/* What a pass does to an array: all up to the new parameter; clear what was read for it (what was accumulated, and with
   zero_grads the gradient); what follows from the new parameter (average, copy). */
enum { FO_UPDATE = 1, FO_CLEAR = 2, FO_FINISH = 4 };

typedef enum { FO_BASELINE, FO_AVX2, FO_AVX512, FO_ISA_COUNT } fo_isa;

/* What a sum is taken of, besides slots (that are not stored in another dtype): the parameter; the gradient after
   grad_scale, clip_value, array_clip and global_clip; that with l2 * param and l1 * sign(param) added. */
typedef enum { FO_PARAM = -3, FO_CLIPPED_GRAD, FO_GRAD } fo_source;

/* One array of the table. Its gradient stands in a table of pointers beside it: that changes with every step. */
typedef struct {
    void *param;
    void *slots[FO_MAX_SLOTS];
    void *scales[FO_MAX_SLOTS];  /* float32, of the slots in 8 bits */
    void *average;        /* of the parameter over the steps; NULL: none */
    void *accumulated;    /* the sum of the gradients since the last applied step; NULL: none */
    void *copy;           /* where the new parameter is written in copy_dtype too; NULL: nowhere */
    int64_t length;
    int64_t first_chunk;  /* how many chunks the arrays before this one have */
    int64_t number;       /* of this array in the optimizer: its stream of random numbers */
    double array_clip;    /* the gradient's factor from clipping this array's norm; 1: none */
    int32_t dtype;        /* fo_dtype that is computed in: of the parameter and its slots, unless they are stored */
    int32_t grad_dtype;   /* fo_dtype of the gradient */
    int32_t param_dtype;  /* fo_dtype of the parameter's memory: dtype, or FO_BFLOAT16 */
    int32_t copy_dtype;   /* FO_FLOAT16 or FO_BFLOAT16 */
    int32_t slot_dtypes[FO_MAX_SLOTS];  /* fo_dtype of each slot's memory: dtype, FO_BFLOAT16, FO_SIGNED8, FO_ROOT8 */
    int32_t is_stored;    /* 1: the memory of the parameter or of a slot is of another dtype than is computed in */
    int32_t hyper;        /* row of the hyperparameter table */
} fo_array;

/* One row of the hyperparameter table, in double precision; cast once to the dtype that is computed in. */
typedef struct {
    double grad_scale;    /* multiplies the gradient first; negative to maximize */
    double mean;          /* then what was accumulated is added, and the sum multiplied by this; 0: not */
    double clip_value;    /* then the gradient is clamped to [-clip_value, clip_value]; infinity: not */
    double global_clip;   /* then multiplied by array_clip and by this factor; 1: not */
    double l2;            /* then l2 * param is added; 0: not */
    double l1;            /* then l1 * sign(param) is added; 0: not */
    double decay;         /* the parameter is multiplied by this before the rule; 1: not */
    double scalars[FO_MAX_SCALARS];  /* the rule's, in the order of its struct in rules.h */
    double threshold;     /* after the rule the parameter comes closer to 0 by this much, and stops there; 0: not */
    double average_weight;  /* of the new parameter in the average; 1: the average becomes the parameter */
    uint64_t dither;      /* seeds this step's random numbers */
    int32_t stages;       /* the sum of FO_UPDATE, FO_CLEAR, FO_FINISH, of those that are done */
    int32_t zero_grads;   /* 1: FO_CLEAR clears the gradient too */
    int32_t rule;         /* its number in FO_RULES of rules.h */
} fo_hyper;

/* Apply one step to every array whose gradient is not NULL, on at most so many threads.
   `counts`: NULL, or two rows of 1 + count numbers: how many steps were applied, and to each array; how many calls have
   accumulated since, and for each array. They are brought up to date here, so that no interrupt can come in between. */
void fo_step(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t threads,
             int64_t *counts);

/* Add every gradient that is not NULL, after grad_scale, to what its array has accumulated; `counts` as in fo_step. */
void fo_accumulate(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t threads,
                   int64_t *counts);

/* What is read of an array before the step. */
typedef struct {
    double sum;           /* of the products of two sources' elements */
    int64_t nonfinite;    /* how many elements of the gradient are infinite or NaN after grad_scale and mean */
} fo_reading;

/* readings[i] <- that of array i (0 where its gradient is NULL); a source is an fo_source or the number of a slot.
   `nonfinite` only if asked for, of the left source, a gradient; else 0. `partials` has room for one reading a chunk. */
void fo_sum_products(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t left,
                     int32_t right, int32_t count_nonfinite, fo_reading *partials, fo_reading *readings,
                     int32_t threads);

/* sums[outer][inner] += the squares of values[outer][size][inner], which are of FO_FLOAT32 or FO_FLOAT64. */
void fo_sum_squares(const void *values, int32_t dtype, int64_t outer, int64_t size, int64_t inner, double *sums);

/* memory[i] <- where that of the NumPy array i is; return 0 (and some of it) unless each is of this very Python type, has
   the dtype object dtypes[i], the shape of models[i], and these of NumPy's flags. Objects are given by their addresses. */
int32_t fo_find_memory(const uintptr_t *arrays, const uintptr_t *models, const uintptr_t *dtypes, int64_t count,
                       uintptr_t type, int32_t flags, void **memory);

int32_t fo_rule_count(void);
const char *fo_rule_name(int32_t rule);

const char *fo_isa_name(int32_t isa);
int32_t fo_isa_found(int32_t isa);   /* 1 where both this build and this machine have it */
void fo_isa_use(int32_t isa);
int32_t fo_isa_in_use(void);

int32_t fo_has_threads(void);        /* 0 where there is but the calling thread */

#endif
