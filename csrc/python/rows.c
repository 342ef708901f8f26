/* The rows of hyperparameters: which arrays share one, and the numbers in it. */
#include "parts.h"

#if FO_HAS_PLANS

/* The fields that RowSource.row_at of fastopt/backends/plan.py returns, in order. */
enum { SCALARS, L2, DECAY, L1, CAUTIOUS, THRESHOLD, WEIGHT, DITHER, ROW_SIZE };

/* An array without a gradient has no chunks, so that threads pass it by. */
static void lay_out(fo_plan *plan)
{
    int64_t chunks = 0;
    for (int64_t i = 0; i < plan->count; i++) {
        plan->arrays[i].length = plan->grads[i] ? plan->planned[i].size : 0;
        plan->arrays[i].first_chunk = chunks;
        chunks += (plan->arrays[i].length + FO_CHUNK - 1) / FO_CHUNK;
    }
    plan->is_laid_out = 1;
}

static int has_bounds_of(const fo_hyper *row, const fo_plan_array *array)
{
    return row->lower == array->lower && row->upper == array->upper;
}

fo_outcome fo_assign_rows(fo_plan *plan)
{
    const int64_t *steps = plan->counts + 1;
    int64_t *row_steps = plan->row_steps;
    plan->is_laid_out = 0; /* until all arrays have a row */
    plan->row_count = 0;
    for (int64_t k = 0; k < plan->group_count; k++)
        plan->groups[k].newest_row = -1;
    for (int64_t i = 0; i < plan->count; i++) {
        const fo_plan_array *array = &plan->planned[i];
        fo_group *group = &plan->groups[array->group];
        int64_t row = group->newest_row;
        if (!plan->grads[i])
            continue;
        while (row >= 0 && !(row_steps[row] == steps[i] && has_bounds_of(&plan->rows[row], array)))
            row = plan->older_rows[row];
        if (row < 0) {
            row = plan->row_count++;
            if (row == plan->row_room)
                return fo_outdated(plan);
            plan->rows[row] = group->row;
            plan->rows[row].lower = array->lower, plan->rows[row].upper = array->upper;
            plan->row_groups[row] = array->group;
            row_steps[row] = steps[i];
            plan->row_made[row] = group->made;
            plan->older_rows[row] = group->newest_row;
            group->newest_row = row;
        }
        plan->arrays[i].hyper = (int32_t)row;
    }
    lay_out(plan);
    return FO_PLANNED;
}

/* Read a rule's scalars; return whether they are what the group had. A whole step has the errors of those that are
   not. */
static int read_scalars(PyObject *tuple, double *scalars, const fo_group *group)
{
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != group->scalar_count)
        return 0;
    if (group->scalars && (uintptr_t)Py_TYPE(tuple) != group->scalars)
        return 0;
    for (Py_ssize_t k = 0; k < group->scalar_count; k++) {
        scalars[k] = PyFloat_AsDouble(PyTuple_GetItem(tuple, k));
        if (scalars[k] == -1.0 && PyErr_Occurred()) {
            if (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_OverflowError))
                PyErr_Clear();
            return 0;
        }
    }
    return 1;
}

static double number_at(PyObject *tuple, int field)
{
    return PyFloat_AsDouble(PyTuple_GetItem(tuple, field));
}

static int read_row(PyObject *tuple, fo_hyper *row, const fo_group *group)
{
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != ROW_SIZE ||
        !read_scalars(PyTuple_GetItem(tuple, SCALARS), row->scalars, group))
        return 0;
    row->l2 = number_at(tuple, L2);
    row->decay = number_at(tuple, DECAY);
    row->l1 = number_at(tuple, L1);
    row->cautious = number_at(tuple, CAUTIOUS);
    row->threshold = number_at(tuple, THRESHOLD);
    row->average_weight = number_at(tuple, WEIGHT);
    row->dither = PyLong_AsUnsignedLongLong(PyTuple_GetItem(tuple, DITHER));
    return !PyErr_Occurred();
}

/* Make a row for the step of its arrays that comes now. */
static int make_row(fo_plan *plan, int64_t r, PyObject *hooks)
{
    fo_group *group = &plan->groups[plan->row_groups[r]];
    const int64_t step = plan->row_steps[r] + 1;
    const int is_whole = group->changes == FO_WHOLE_ROW || group->has_new_rows;
    fo_hyper *row = &plan->rows[r];
    const int is_same = step >= group->same_from && plan->row_made[r] >= group->same_from;
    if (is_same && !group->changes && !group->has_new_rows && !group->is_scheduled)
        return 1;
    PyObject *count = PyLong_FromLongLong(step), *made;
    if (is_whole)
        made = PyObject_CallFunctionObjArgs((PyObject *)plan->row_at, hooks, fo_options_of(group), count, NULL);
    else
        made = PyObject_CallMethodObjArgs(hooks, fo_name.hyper, fo_options_of(group), count, NULL);
    const int is_made = made && (is_whole ? read_row(made, row, group) : read_scalars(made, row->scalars, group));
    if (is_made) {
        group->row = *row;
        group->made = plan->row_made[r] = step;
    }
    Py_XDECREF(count);
    Py_XDECREF(made);
    return is_made;
}

int fo_make_rows(fo_plan *plan, PyObject *hooks)
{
    for (int64_t r = 0; r < plan->row_count; r++) {
        if (!make_row(plan, r, hooks)) {
            plan->is_outdated |= !PyErr_Occurred(); /* the hook returned something else than the scalars */
            return 0;
        }
        const int is_due = (plan->row_steps[r] + 1) % FO_FLUSH_STEPS == 0;
        plan->rows[r].flush = is_due ? plan->groups[plan->row_groups[r]].flush : 0;
    }
    if (plan->may_change) {
        plan->may_change = 0;
        for (int64_t r = 0; r < plan->row_count; r++)
            plan->groups[plan->row_groups[r]].changes = 0;
        for (int64_t k = 0; k < plan->group_count; k++)
            plan->may_change |= plan->groups[k].changes != 0;
    }
    return 1;
}

#endif
