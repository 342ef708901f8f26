/* The parameters and their gradients: the checks of fastopt/core/gradients.py, on NumPy's objects themselves. */
#include "parts.h"

#include "../ndarray.h"

#include <stdlib.h>

#if FO_HAS_PLANS

/* Bytes of an element, by fo_dtype. */
static const int64_t itemsizes[FO_PLANNED_DTYPES] = {4, 8, 2, 2};

int fo_is_last_call(const fo_plan *plan)
{
    return plan->accumulate_steps == 1 || plan->counts[1 + plan->count] + 1 >= plan->accumulate_steps;
}

/* Return whether all arrays of the optimizer lie in memory as they did. */
static int are_kept(const fo_plan *plan)
{
    int64_t changed[2];
    for (int64_t k = 0; k < plan->layouts_count; k++)
        if (plan->layouts[k].hidden_by && PyDict_Size((PyObject *)plan->layouts[k].hidden_by) > 0)
            return 0; /* from the whole step on they are compared */
    return fo_are_kept(plan->layouts, plan->layouts_count, changed);
}

static int is_writeable(uintptr_t array)
{
    return (((const fo_ndarray *)array)->flags & FO_WRITEABLE) != 0;
}

/* Return whether a step writes none of the memory [begin, end). */
static int is_disjoint(const fo_plan *plan, fo_plan_array *array, uintptr_t begin, uintptr_t end)
{
    const uintptr_t *starts = plan->starts, *stops = plan->stops;
    const int64_t count = plan->run_count;
    int64_t low = array->gap, high = count;
    if ((low == count || end <= starts[low]) && (low == 0 || stops[low - 1] <= begin))
        return 1;
    for (low = 0; low < high;) {
        const int64_t middle = low + (high - low) / 2;
        if (starts[middle] < end)
            low = middle + 1;
        else
            high = middle;
    }
    array->gap = low;
    return low == 0 || stops[low - 1] <= begin;
}

static int32_t dtype_number(const fo_plan *plan, uintptr_t dtype, int32_t likely)
{
    if (plan->grad_dtypes[likely] == dtype)
        return likely;
    for (int32_t number = 0; number < FO_PLANNED_DTYPES; number++)
        if (plan->grad_dtypes[number] == dtype)
            return number;
    return -1;
}

/* Return whether this is the first step of an array with an average, a master, or a slot that begins as a copy:
   fastopt/core/params_in_state.py copies the parameter there again before it. */
static int needs_copies(const fo_plan *plan, int64_t i)
{
    const fo_plan_array *array = &plan->planned[i];
    return plan->counts[1 + i] == 0 && fo_is_last_call(plan) &&
           (plan->arrays[i].average || plan->groups[array->group].has_copies ||
            plan->arrays[i].param != ((const fo_ndarray *)array->param)->memory);
}

static fo_outcome take_grad(fo_plan *plan, int64_t i)
{
    fo_plan_array *array = &plan->planned[i];
    const fo_ndarray *grad = (const fo_ndarray *)plan->leaves[i];
    if (grad->type != plan->ndarray || !fo_same_shape(grad, (const fo_ndarray *)array->param))
        return FO_NOT_PLANNED;
    const int32_t dtype = dtype_number(plan, grad->dtype, plan->arrays[i].grad_dtype);
    if (dtype < 0)
        return FO_NOT_PLANNED;
    const int64_t bytes = array->size * itemsizes[dtype];
    const int32_t flags = (array->is_reversed ? FO_F_ORDER : FO_C_ORDER) | plan->grad_flags;
    plan->arrays[i].grad_dtype = dtype;
    if ((grad->flags & flags) == flags) {
        const uintptr_t begin = (uintptr_t)grad->memory;
        plan->grads[i] = grad->memory;
        return bytes == 0 || is_disjoint(plan, array, begin, begin + (uintptr_t)bytes) ? FO_PLANNED : FO_NOT_PLANNED;
    }
    if (plan->grad_runs)
        return FO_NOT_PLANNED; /* the array itself is to be cleared, not its copy */
    if (array->buffer_bytes < bytes)
        return fo_outdated(plan);
    fo_copy_in_order(grad, itemsizes[dtype], array->is_reversed, array->buffer);
    plan->grads[i] = array->buffer;
    return FO_PLANNED;
}

/* Rows are needed where other arrays than before have a gradient, or one made another number of steps than the others of
   its row. */
static fo_outcome take_each(fo_plan *plan, int *needs_rows)
{
    const int64_t *steps = plan->counts + 1;
    for (int64_t i = 0; i < plan->count; i++) {
        const int is_present = plan->leaves[i] && !plan->planned[i].is_frozen;
        if (is_present && !is_writeable(plan->planned[i].param))
            return FO_NOT_PLANNED;
        if (is_present != (plan->grads[i] != NULL))
            plan->is_laid_out = 0;
        if (!is_present) {
            plan->grads[i] = NULL;
            continue;
        }
        const fo_outcome outcome = needs_copies(plan, i) ? FO_NOT_PLANNED : take_grad(plan, i);
        if (outcome != FO_PLANNED)
            return outcome;
        *needs_rows |= plan->is_laid_out && steps[i] != plan->row_steps[plan->arrays[i].hyper];
    }
    *needs_rows |= !plan->is_laid_out;
    return FO_PLANNED;
}

static int compare_starts(const void *left, const void *right)
{
    const uintptr_t a = ((const fo_run *)left)->start, b = ((const fo_run *)right)->start;
    return (a > b) - (a < b);
}

/* Return whether no two of the gradients, which the step will clear, overlap. */
static int are_clearable(const fo_plan *plan)
{
    fo_run *runs = plan->grad_runs;
    int64_t count = 0;
    int is_sorted = 1;
    for (int64_t i = 0; i < plan->count; i++) {
        const uintptr_t bytes = (uintptr_t)(plan->planned[i].size * itemsizes[plan->arrays[i].grad_dtype]);
        const uintptr_t start = (uintptr_t)plan->grads[i];
        if (start == 0 || bytes == 0)
            continue;
        is_sorted &= count == 0 || runs[count - 1].start <= start;
        runs[count++] = (fo_run){start, start + bytes};
    }
    if (!is_sorted)
        qsort(runs, (size_t)count, sizeof *runs, compare_starts);
    for (int64_t k = 1; k < count; k++)
        if (runs[k].start < runs[k - 1].stop)
            return 0;
    return 1;
}

fo_outcome fo_take_grads(fo_plan *plan, int *needs_rows)
{
    if (!are_kept(plan))
        return FO_NOT_PLANNED;
    const fo_outcome outcome = take_each(plan, needs_rows);
    return outcome == FO_PLANNED && plan->grad_runs && !are_clearable(plan) ? FO_NOT_PLANNED : outcome;
}

#endif
