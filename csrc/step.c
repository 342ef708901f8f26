/* The passes over the table: the step itself, accumulating gradients, and the sums that clipping, checking and some
   optimizers need. */
#include "isa.h"
#include "parallel.h"
#include "rules.h"

#include <stddef.h>
#include <string.h>

typedef struct {
    const fo_kernels *kernels;
    const fo_array *arrays;
    void *const *grads;
    const fo_hyper *hypers;
    int32_t left, right, count_nonfinite;
    fo_reading *partials;
} fo_pass;

/* Return how many elements stand before the parameter's first cache line. An array of several chunks is cut there, so
   that no later vector crosses a line (a fifth faster in cache). Arrays stored in another dtype keep to their blocks
   instead. */
static int64_t head_of(const fo_array *array)
{
    const uintptr_t past = (uintptr_t)array->param % 64, size = array->dtype == FO_FLOAT32 ? 4 : 8;
    return past == 0 || array->length <= FO_CHUNK || array->is_stored ? 0 : (int64_t)((64 - past) / size);
}

static void visit_step(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    const fo_pass *pass = context;
    const fo_array *array = &pass->arrays[index];
    void *grad = pass->grads[index];
    const fo_hyper *hyper = &pass->hypers[array->hyper];
    const int64_t head = head_of(array);
    (void)chunk;
    if (!grad)
        return;
    if (begin == 0 && head > 0)
        pass->kernels[array->dtype].step_chunk(array, grad, 0, head, hyper);
    begin += head;
    end = end + head < array->length ? end + head : array->length;
    pass->kernels[array->dtype].step_chunk(array, grad, begin, end, hyper);
}

static void count_call(int64_t *row, void *const *grads, int64_t count)
{
    row[0]++;
    for (int64_t i = 0; i < count; i++)
        row[1 + i] += grads[i] != NULL;
}

void fo_step(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t threads,
             int64_t *counts)
{
    const fo_pass pass = {fo_kernels_in_use(), arrays, grads, hypers, 0, 0, 0, 0};
    const fo_mode before = fo_use_default_mode();
    fo_for_each_chunk(arrays, count, threads, 1, visit_step, &pass);
    fo_restore_mode(before);
    if (counts) {
        count_call(counts, grads, count);
        memset(counts + 1 + count, 0, sizeof(int64_t) * (size_t)(1 + count));
    }
}

static void visit_accumulate(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    const fo_pass *pass = context;
    const fo_array *array = &pass->arrays[index];
    (void)chunk;
    if (pass->grads[index])
        pass->kernels[array->dtype].accumulate_chunk(array, pass->grads[index], begin, end,
                                                     &pass->hypers[array->hyper]);
}

void fo_accumulate(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t threads,
                   int64_t *counts)
{
    const fo_pass pass = {fo_kernels_in_use(), arrays, grads, hypers, 0, 0, 0, 0};
    const fo_mode before = fo_use_default_mode();
    fo_for_each_chunk(arrays, count, threads, 1, visit_accumulate, &pass);
    fo_restore_mode(before);
    if (counts)
        count_call(counts + 1 + count, grads, count);
}

static void visit_sum_products(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    const fo_pass *pass = context;
    const fo_array *array = &pass->arrays[index];
    if (pass->grads[index])
        pass->partials[chunk] = pass->kernels[array->dtype].sum_products_chunk(array, pass->grads[index], begin, end,
                                                                               &pass->hypers[array->hyper], pass->left,
                                                                               pass->right, pass->count_nonfinite);
}

void fo_sum_products(const fo_array *arrays, void *const *grads, int64_t count, const fo_hyper *hypers, int32_t left,
                     int32_t right, int32_t count_nonfinite, fo_reading *partials, fo_reading *readings,
                     int32_t threads)
{
    const fo_pass pass = {fo_kernels_in_use(), arrays, grads, hypers, left, right, count_nonfinite, partials};
    const fo_mode before = fo_use_default_mode();
    fo_for_each_chunk(arrays, count, threads, 1, visit_sum_products, &pass);
    /* Add in index order, whichever thread made a partial sum: this keeps the bits. */
    for (int64_t i = 0; i < count; i++) {
        const fo_reading *partial = partials + arrays[i].first_chunk;
        readings[i] = (fo_reading){0, 0};
        for (int64_t begin = 0; grads[i] && begin < arrays[i].length; begin += FO_CHUNK, partial++) {
            readings[i].sum += partial->sum;
            readings[i].nonfinite += partial->nonfinite;
        }
    }
    fo_restore_mode(before);
}

void fo_sum_squares(const void *values, int32_t dtype, int64_t outer, int64_t size, int64_t inner, double *sums)
{
    const fo_mode before = fo_use_default_mode();
    fo_kernels_in_use()[dtype].sum_squares(values, outer, size, inner, sums);
    fo_restore_mode(before);
}

#define RULE(name) #name,
static const char *const rule_names[] = {FO_RULES(RULE)};

int32_t fo_rule_count(void)
{
    return (int32_t)(sizeof rule_names / sizeof rule_names[0]);
}

const char *fo_rule_name(int32_t rule)
{
    return rule_names[rule];
}
