/* The contract between Python and C. ffi_build.py feeds this very file to cffi (less the lines that begin with #). */
#ifndef FASTOPT_H
#define FASTOPT_H

#include <stdint.h>

enum {
    FO_BLOCK = 1024,      /* elements that pass through all stages while they sit in the L1 cache */
    FO_CHUNK = 4096,      /* elements of one array that one thread takes at a time; one partial sum of a norm */
    FO_LANES = 16,        /* running sums inside a partial sum; part of what makes a norm's bits */
    FO_MAX_SLOTS = 6,
    FO_MAX_SCALARS = 16
};

typedef enum { FO_FLOAT32, FO_FLOAT64, FO_FLOAT16, FO_BFLOAT16 } fo_dtype;

typedef enum { FO_BASELINE, FO_AVX2, FO_AVX512, FO_ISA_COUNT } fo_isa;

/* What a sum is taken of, besides slots: the parameter; the gradient after grad_scale, clip_value, array_clip and
   global_clip; that with l2 * param added. */
typedef enum { FO_PARAM = -3, FO_CLIPPED_GRAD, FO_GRAD } fo_source;

/* One array of the table. Its gradient stands in a table of pointers beside it: that changes with every step. */
typedef struct {
    void *param;
    void *slots[FO_MAX_SLOTS];
    int64_t length;
    int64_t first_chunk;  /* how many chunks the arrays before this one have */
    double array_clip;    /* the gradient's factor from clipping this array's norm; 1: none */
    int32_t dtype;        /* fo_dtype of the parameter and its slots: the one that is computed in */
    int32_t grad_dtype;   /* fo_dtype of the gradient */
    int32_t hyper;        /* row of the hyperparameter table */
} fo_array;

/* One row of the hyperparameter table, in double precision; cast once to the dtype that is computed in. */
typedef struct {
    double grad_scale;    /* multiplies the gradient first; negative to maximize */
    double clip_value;    /* then the gradient is clamped to [-clip_value, clip_value]; infinity: not */
    double global_clip;   /* then multiplied by array_clip and by this factor; 1: not */
    double l2;            /* then l2 * param is added; 0: not */
    double decay;         /* the parameter is multiplied by this before the rule; 1: not */
    double scalars[FO_MAX_SCALARS];  /* the rule's, in the order of its struct in rules.h */
    int32_t rule;
} fo_hyper;

/* Apply one step to every array whose gradient is not NULL, on at most so many threads. */
void fo_step(const fo_array *arrays, const void *const *grads, int64_t count, const fo_hyper *hypers, int32_t threads);

/* sums[i] <- the sum of the products of two sources' elements of array i (0 where its gradient is NULL); a source is an
   fo_source or the number of a slot. `partials` has room for one double a chunk. */
void fo_sum_products(const fo_array *arrays, const void *const *grads, int64_t count, const fo_hyper *hypers,
                     int32_t left, int32_t right, double *partials, double *sums, int32_t threads);

int32_t fo_rule_count(void);
const char *fo_rule_name(int32_t rule);

const char *fo_isa_name(int32_t isa);
int32_t fo_isa_found(int32_t isa);   /* 1 where both this build and this machine have it */
void fo_isa_use(int32_t isa);
int32_t fo_isa_in_use(void);

int32_t fo_has_threads(void);        /* 0 where there is but the calling thread */

#endif
