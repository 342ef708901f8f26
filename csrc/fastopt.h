/* The contract between Python and C. cffi reads this file too, without the lines that begin with #
   (tools/ffi_build.py). */
#ifndef FASTOPT_H
#define FASTOPT_H

#include <stdint.h>

enum {
    FO_BLOCK = 1024,        /* elements that pass through all stages while they sit in the L1 cache */
    FO_CHUNK = 4096,        /* elements of one array that one thread takes at a time; one partial sum of a norm */
    FO_LANES = 16,          /* running sums inside a partial sum; part of what makes a norm's bits */
    FO_SCALE_BLOCK = 256,   /* elements that share a scale in 8-bit storage, and a random number in dithered storage */
    FO_PANEL_ROWS = 64,     /* rows of BFGS's inverse Hessian that one thread takes at a time */
    FO_PANEL_COLUMNS = 256, /* columns of a panel that lie together in memory */
    FO_PANEL_LANES = 8,     /* running sums of a row; part of what makes the bits of BFGS */
    FO_MAX_SLOTS = 6,
    FO_MAX_SCALARS = 16,
    FO_FLUSH_STEPS = 16 /* an array's tiny numbers are flushed in every step that is a multiple of this */
};

/* The last two are for slots only: 8 bits, with a scale for every FO_SCALE_BLOCK elements (quantize.h). */
typedef enum { FO_FLOAT32, FO_FLOAT64, FO_FLOAT16, FO_BFLOAT16, FO_SIGNED8, FO_ROOT8 } fo_dtype;

/* The stages of a pass over an array. FO_UPDATE makes the new parameter. FO_CLEAR clears the accumulated gradients, and
   with zero_grads the gradient. FO_FINISH moves the new parameter into its bounds, then updates the average and the copy
   from it. */
enum { FO_UPDATE = 1, FO_CLEAR = 2, FO_FINISH = 4 };

/* The arrays whose numbers below the smallest normal one become +0: the slots, right after the rule, and the
   average. */
enum { FO_FLUSH_SLOTS = 1, FO_FLUSH_AVERAGE = 2 };

typedef enum { FO_BASELINE, FO_AVX2, FO_AVX512, FO_ISA_COUNT } fo_isa;

/* The sources of a sum, besides slots (which must not be stored in another dtype): the parameter; the gradient after
   grad_scale, clip_value, array_clip and global_clip; that gradient plus l2 * param and l1 * sign(param). Those of a
   slot, each a number to add to the slot's: the slot minus the parameter; the signs of the slot. */
typedef enum { FO_PARAM = -3, FO_CLIPPED_GRAD, FO_GRAD, FO_DISTANCE = 8, FO_SIGNS = 16 } fo_source;

/* One array of the table. Its gradient is in a separate table of pointers, because that changes with every step. */
typedef struct {
    void *param;
    void *slots[FO_MAX_SLOTS];
    void *scales[FO_MAX_SLOTS]; /* float32, for slots in 8 bits */
    void *average;              /* the parameter's average over the steps; NULL: none */
    void *accumulated;          /* the sum of the gradients since the last applied step; NULL: none */
    void *copy;                 /* gets the new parameter in copy_dtype too; NULL: none */
    void *lower, *upper;        /* in the compute dtype: the least and the greatest value of each element; NULL: none */
    int64_t length;
    int64_t first_chunk; /* how many chunks the arrays before this one have */
    int64_t number;      /* this array's number in the optimizer; selects its random numbers */
    int64_t first_block; /* of a slice of an array: how many blocks of FO_SCALE_BLOCK elements are before it; else 0 */
    double array_clip;   /* the gradient's factor from clipping this array's norm; 1: none */
    int32_t dtype;       /* the compute dtype, an fo_dtype; also that of memory that is not stored in another */
    int32_t grad_dtype;  /* fo_dtype of the gradient */
    int32_t param_dtype; /* fo_dtype of the parameter's memory: dtype, or FO_BFLOAT16 */
    int32_t copy_dtype;  /* FO_FLOAT16 or FO_BFLOAT16 */
    int32_t slot_dtypes[FO_MAX_SLOTS]; /* dtype, FO_BFLOAT16, FO_SIGNED8 or FO_ROOT8 */
    int32_t is_stored;                 /* 1: the memory of the parameter or of a slot is not of the compute dtype */
    int32_t hyper;                     /* row of the hyperparameter table */
} fo_array;

/* The loops of a rule that was compiled at run time; each has the signature of rule_loop in pipeline_template.h. */
typedef struct {
    uintptr_t loops[2]; /* their addresses, by the compute dtype: FO_FLOAT32, FO_FLOAT64; 0: no array has it */
    int64_t slot_count;
} fo_own_rule;

/* One row of the hyperparameter table, in double precision. C casts each number once to the compute dtype. */
typedef struct {
    double grad_scale;              /* multiplies the gradient first; negative to maximize */
    double mean;                    /* then the accumulated sum is added, and the result multiplied by this; 0: not */
    double clip_value;              /* then the gradient is clamped to [-clip_value, clip_value]; infinity: not */
    double global_clip;             /* then multiplied by array_clip and by this factor; 1: not */
    double l2;                      /* then l2 * param is added; 0: not */
    double l1;                      /* then l1 * sign(param) is added; 0: not */
    double decay;                   /* the parameter is multiplied by this before the rule; 1: not */
    double scalars[FO_MAX_SCALARS]; /* the rule's, in the order of its struct in rules.h */
    double cautious;        /* times the parameter before the rule; subtracted where that moves it towards 0; 0: not */
    double threshold;       /* then the parameter moves towards 0 by this much, and stops there */
    double lower, upper;    /* FO_FINISH first moves the new parameter into these bounds; infinity: not */
    double average_weight;  /* the new parameter's weight in the average; 1: the average becomes the parameter */
    uint64_t dither;        /* seeds this step's random numbers */
    int32_t stages;         /* the sum of those of FO_UPDATE, FO_CLEAR, FO_FINISH to do */
    int32_t zero_grads;     /* 1: FO_CLEAR clears the gradient too */
    int32_t flush;          /* the sum of those of FO_FLUSH_SLOTS, FO_FLUSH_AVERAGE to do */
    int32_t rule;           /* its number in FO_RULES of rules.h */
    const fo_own_rule *own; /* is run instead of `rule`; NULL: none */
} fo_hyper;

/* Apply one step to every array whose gradient is not NULL, on at most `threads` threads.
   `counts` is NULL, or two rows of 1 + count numbers. The first row is how many steps were applied, in all and to each
   array. The second row is how many calls have accumulated since, in all and for each array. They are updated here, so
   that no interrupt can come in between. */
void fo_step(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t threads,
             int64_t *counts);

/* Add every gradient that is not NULL, after grad_scale, to the accumulated sum of its array. `counts` is as in
   fo_step. */
void fo_accumulate(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t threads,
                   int64_t *counts);

/* The result of reading one array before the step. */
typedef struct {
    double sum;        /* of the products of two sources' elements */
    int64_t nonfinite; /* how many elements of the gradient are infinite or NaN after grad_scale and mean */
} fo_reading;

/* readings[i] <- the reading of array i, or 0 if its gradient is NULL. A source is an fo_source or the number of a
   slot. `nonfinite` is 0 unless count_nonfinite is 1; then the left source is a gradient, and it counts that one.
   `partials` has room for one reading per chunk. */
void fo_sum_products(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t left,
                     int32_t right, int32_t count_nonfinite, fo_reading *partials, fo_reading *readings,
                     int32_t threads);

/* sums[outer][inner] += the squares of values[outer][size][inner]. `dtype` is FO_FLOAT32 or FO_FLOAT64. */
void fo_sum_squares(const void *values, int32_t dtype, int64_t outer, int64_t size, int64_t inner, double *sums);

/* sums[i] <- the sum of the rows order[firsts[i]], order[firsts[i] + 1], ..., up to the next of `firsts`, added in this
   order. A row has `width` values of type `dtype`, FO_FLOAT32 or FO_FLOAT64. `rows` is the length of `order`, and `count`
   that of `firsts`. */
void fo_add_rows(const void *values, int32_t dtype, int64_t width, const int64_t *order, int64_t rows,
                 const int64_t *firsts, int64_t count, void *sums);

/* Arrays that lie in a vector one after the other: array i from starts[i] to starts[i + 1]. Their dtypes are those up to
   FO_BFLOAT16. An array that is NULL has zeros. */
typedef struct {
    void *const *arrays;
    const int32_t *dtypes;
    const int64_t *starts;
    int64_t count;
} fo_packed;

/* vector <- elements [begin, end) of packed arrays. They become `dtype`, rounded to float32 on the way to half
   precision. */
void fo_pack(const fo_packed *packed, int64_t begin, int64_t end, int32_t dtype, void *vector, int32_t threads);

/* The way back, for arrays of the vector's dtype. */
void fo_unpack(const fo_packed *packed, int64_t begin, int64_t end, int32_t dtype, const void *vector, int32_t threads);

/* The beginning of a sum: what it is already, zero, or its first row. */
enum { FO_FROM_SUMS, FO_FROM_ZERO, FO_FROM_ROW };

/* sums <- ((beginning + rows[0] * scale) + rows[1] * scale) + ..., computed in `dtype`, that of the sums, to which the
   rows are converted as gradients are. A row that is NULL is what fo_pack would write from `begin` on. */
void fo_accumulate_rows(const fo_packed *packed, int64_t begin, const void *const *rows, int32_t row_dtype,
                        int64_t count, int64_t length, double scale, int32_t from, int32_t dtype, void *sums,
                        int32_t threads);

/* Vectors of as many numbers as the inverse Hessian of BFGS has rows: what the last update adds, and the new difference of
   gradients and the new gradient. */
typedef struct {
    const double *s, *w, *y, *g;
} fo_bfgs_vectors;

/* H += s w' + w s', then products <- (H y, H g). H is symmetric with `size` rows, a multiple of FO_PANEL_LANES. `panels`
   are its rows in order, FO_PANEL_ROWS each (the last may have fewer): their columns up to the last of these rows, in
   blocks [columns / FO_PANEL_COLUMNS][rows][FO_PANEL_COLUMNS] (the last may have fewer columns), and then the square on
   the diagonal as a block of its own. `columns` has room for the sums of columns: FO_PANEL_ROWS * count * (count - 1)
   numbers. */
void fo_bfgs_pass(const fo_array *panels, int64_t count, int64_t size, const fo_bfgs_vectors *vectors, double *columns,
                  double *products, int32_t threads);

/* Return the sum of the products, in the order of fo_sum_products. */
double fo_dot(const double *left, const double *right, int64_t size);

/* A problem of sparse coding: the codes h of each row y minimize |y - D'h|^2 / 2 + l1 |h|_1 + l2 |h|^2 / 2. Matrices
   have their rows one after the other. Those of `stride` columns, a multiple of FO_LANES, are filled up with zeros. */
typedef struct {
    const void *rows;         /* [count][features] */
    const double *dictionary; /* [features][stride]: the transpose of D */
    const void *gram;         /* [atoms][stride]: D D', exactly symmetric */
    const void *inverse;      /* 1 / (gram[i][i] + l2), or 0 for an atom whose code stays 0 */
    void *codes;              /* [count][atoms]: the start, then the result */
    double *gaps; /* of each row, what is left of the duality gap at max_iterations, divided by y'y; else 0 */
    int64_t count, features, atoms, stride;
    double l1, l2;          /* numbers of this dtype */
    double tolerance;       /* a row is solved when its duality gap is not above tolerance * y'y */
    double jump_above;      /* violations up to this are rounding */
    int32_t max_iterations; /* the most sweeps over the atoms in use of a row */
    int32_t positive;       /* 1: no code is negative */
    int32_t dtype;          /* FO_FLOAT32 or FO_FLOAT64: of all that is not double */
} fo_coding;

/* Solve all rows, on at most `threads` threads. `scratch` has room for fo_coding_scratch(coding) bytes for each. */
void fo_code_rows(const fo_coding *coding, int32_t threads, void *scratch);
int64_t fo_coding_scratch(const fo_coding *coding);

/* products[count][stride] <- the products of all rows with the dictionary, summed in double precision. Of `coding` the
   members that this needs are read. */
void fo_multiply_rows(const fo_coding *coding, int32_t threads, void *products, void *scratch);

/* memory[i] <- the memory of NumPy array i. Return 1 if each array is exactly of this Python type, and has the dtype
   object dtypes[i], the shape of models[i] and these flags of NumPy; else 0, with a part of `memory` written. Objects
   are given by their addresses. `dtypes` is NULL if arrays may have any dtype. */
int32_t fo_find_memory(const uintptr_t *arrays, const uintptr_t *models, const uintptr_t *dtypes, int64_t count,
                       uintptr_t type, int32_t flags, void **memory);

/* How a NumPy array lay in memory at one time. Objects are given by their addresses. */
typedef struct {
    uintptr_t array, dtype;
    void *memory;
    int64_t first; /* the place of its shape in a list of shapes */
    int32_t dimensions;
    int32_t order; /* a flag of NumPy: that of C order if the array was in it, else that of Fortran order */
} fo_layout;

/* Several layouts. */
typedef struct {
    const fo_layout *layouts;
    const intptr_t *shapes;
    int64_t count;
    int32_t flags;       /* of NumPy, which the arrays must have */
    uintptr_t hidden_by; /* the layouts are not compared: a Python dict, empty while nobody can have the arrays; or 0 */
} fo_layouts;

/* Write how the arrays layouts[i].array lie in memory, and their shapes, one after the other. Return how many numbers
   the shapes are; if `shapes` is NULL, that is all. */
int64_t fo_record_layouts(fo_layout *layouts, int64_t count, intptr_t *shapes);

/* Return whether all arrays lie as they did. If not, write which does not: the number of its layouts, and its own. */
int32_t fo_are_kept(const fo_layouts *each, int64_t count, int64_t *changed);

int32_t fo_rule_count(void);
const char *fo_rule_name(int32_t rule);

const char *fo_isa_name(int32_t isa);
int32_t fo_isa_found(int32_t isa);      /* 1 if both this build and this machine have it */
int32_t fo_isa_keeps_bits(int32_t isa); /* 1 if its kernels round every operation by itself (probe.c) */
void fo_isa_use(int32_t isa);
int32_t fo_isa_in_use(void);

int32_t fo_has_threads(void); /* 0 if there is only the calling thread */

#endif
