/* The parts of a planned step, for plan.c. */
#ifndef FO_PARTS_H
#define FO_PARTS_H

#include "limited_api.h"

#include "plan.h"

#if FO_HAS_PLANS

typedef enum { FO_NOT_PLANNED, FO_PLANNED } fo_outcome;

/* Let the plan make no step any more, and return FO_NOT_PLANNED. */
static inline fo_outcome fo_outdated(fo_plan *plan)
{
    plan->is_outdated = 1;
    return FO_NOT_PLANNED;
}

/* Return this dict's entry of an interned name. */
static inline PyObject *fo_entry(uintptr_t dict, PyObject *name)
{
    return PyDict_GetItemWithError((PyObject *)dict, name);
}

/* Names of attributes and options. */
typedef struct {
    PyObject *frozen, *grad, *groups, *hyper, *lr, *lrs, *norms, *rule, *threads;
} fo_names;

extern fo_names fo_name;

/* walk.c: the user's containers */

/* Write the arrays of the gradients into plan->leaves, 0 for None. Return whether the structure is that of the plan. */
int fo_flatten(const fo_plan *plan, PyObject *grads);

/* Return whether each of the parameters' containers holds its children still. */
int fo_are_in_place(const fo_plan *plan);

/* options.c */

/* Compare all options; take over those that the user wrote, where that leaves the plan what it is. */
int fo_take_options(fo_plan *plan, PyObject *hooks);

/* Return the options of a group in this step. */
PyObject *fo_options_of(const fo_group *group);

/* Evaluate the schedules; return 0 if one raises. */
int fo_evaluate_options(fo_plan *plan);
void fo_forget_evaluated(fo_plan *plan);

/* gradients.c */

/* Return whether the call applies the gradients: always, unless they are accumulated. */
int fo_is_last_call(const fo_plan *plan);

/* Check all arrays and their gradients. Set whether the arrays need other rows than in the last step. */
fo_outcome fo_take_grads(fo_plan *plan, int *needs_rows);

/* rows.c */

/* Give the arrays that agree in their group and their number of steps a common row. */
fo_outcome fo_assign_rows(fo_plan *plan);

/* Make each row for the step of its arrays that comes now; return 0 if a function raises. */
int fo_make_rows(fo_plan *plan, PyObject *hooks);

/* Functions that Python gets. */

/* options.c: `same_entries(dicts, seen)` returns whether each dict has the keys and values that the pair of lists in
   `seen` has: the very objects, in this order. */
PyObject *fo_same_entries(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

/* tensors.c: `note_tensors(tensors, exchange, params)` returns whether C can read where these parameters lie, and notes
   it. `move_to_gradients(tensors, params)` returns the gradients and their arrays, which it has moved; None if one is not
   like its parameter, or a parameter has moved itself. */
PyObject *fo_note_tensors(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *fo_move_to_gradients(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

#endif
#endif
