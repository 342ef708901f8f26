/* A plan: all that a step like the last one compares and uses. Python objects are given by their addresses; the plan's
   Python side (fastopt/backends/native/plan.py) fills it in and keeps every one of them alive. cffi reads this file
   too, without the lines that begin with #. */
#ifndef FO_PLAN_H
#define FO_PLAN_H

#include "../fastopt.h"

enum { FO_PLANNED_DTYPES = 4 }; /* the fo_dtypes that a gradient may have, by their numbers */

typedef enum { FO_LEAF, FO_DICT, FO_LIST } fo_node_kind;

/* One part of the gradients' structure, in preorder: a container comes before its children. */
typedef struct {
    uintptr_t key; /* in the dict above */
    int32_t kind;  /* an fo_node_kind */
    int32_t children;
    int64_t end;        /* the number of the part after this one and all below it */
    int64_t first_leaf; /* the number of the first array in it */
} fo_node;

/* One of the containers that the parameters came in, and its children, at places of the plan's child_keys. */
typedef struct {
    uintptr_t container;
    int32_t kind; /* FO_DICT or FO_LIST */
    int64_t first, count;
} fo_container;

/* How a new value of an option is taken. */
typedef enum {
    FO_FIXED,   /* not: the plan ends */
    FO_NUMBER,  /* a float in the range; Python checks others */
    FO_NUMBERS, /* a tuple of floats in the range; Python checks others */
    FO_CHECKED, /* Python checks it */
} fo_writing;

/* The parts of a row that an option can change. */
typedef enum { FO_SCALARS = 1, FO_WHOLE_ROW = 3 } fo_change;

/* A run of memory. */
typedef struct {
    uintptr_t start, stop;
} fo_run;

/* An entry of a dict: a new value is another object. */
typedef struct {
    uintptr_t key, value;
    int32_t writing; /* an fo_writing */
    int32_t length;  /* of a tuple */
    int32_t changes; /* an fo_change */
    int32_t includes_low, includes_high;
    double low, high;
} fo_option;

typedef struct {
    uintptr_t options; /* the user's dict */
    uintptr_t values;  /* a dict of the same options, as a step uses them */
    int64_t first, count;
    int32_t is_scheduled; /* 1: an option is a function of the step */
    int32_t changes;      /* since its rows were made: those of the options that were written */
    int32_t has_new_rows; /* 1: further numbers than the rule's scalars depend on the step */
    int32_t flush;        /* the rows' `flush` in every step that is a multiple of FO_FLUSH_STEPS */
    int32_t scalar_count; /* how many scalars the rule has */
    int32_t has_copies;   /* 1: a slot begins as a copy of the parameter */
    uintptr_t scalars;    /* their type, if the rule is the user's own; else 0 */
    uintptr_t rule;
    int64_t same_from; /* the rule's scalars are the same from this step on */
    double limit;      /* the greatest norm of an array; infinity: none */
    fo_hyper row;      /* for arrays that have no row yet, as it was made last */
    int64_t made;      /* for this step; 0: only the fields that stay are set */
    int64_t newest_row;
    uintptr_t evaluated; /* the options of this step */
} fo_group;

/* One array of the plan. */
typedef struct {
    uintptr_t param;     /* an object */
    int32_t is_reversed; /* 1: in Fortran order, so that its memory is that of its transpose in C order */
    int32_t is_frozen;
    int64_t group, size;
    double lower, upper; /* as in fo_hyper */
    int64_t gap;         /* the number of the first run of `starts` after its last gradient */
    void *buffer;        /* for a gradient that is not in its order; NULL: none */
    int64_t buffer_bytes;
} fo_plan_array;

typedef struct {
    int64_t count;
    fo_plan_array *planned;
    fo_array *arrays;
    void **grads;
    uintptr_t *leaves; /* the gradients' objects; 0: none */
    int64_t *counts;   /* as in fo_step */
    int64_t *marks;    /* those of fastopt.core.turns.Turns: the thread that makes a planned step, or 0; how many steps
                          were planned; not 0 while no step may be planned */
    uintptr_t queue;   /* the list of the calls that run or wait */

    int64_t node_count;
    const fo_node *nodes;
    int32_t is_single; /* 1: the gradients are one array */
    uintptr_t wrapper; /* a key: an entry of the first container may be a dict with this key alone; 0: not */

    int64_t container_count;
    const fo_container *containers;
    const uintptr_t *child_keys, *children;

    uintptr_t whole_options; /* a dict, at the places from first_whole_option to option_count */
    uintptr_t parameters;    /* a dict whose "frozen" is `frozen` */
    uintptr_t frozen;
    uintptr_t groups_dict; /* a dict whose "param_groups" is `groups_list` */
    uintptr_t groups_list;
    int64_t first_whole_option, option_count, group_count;
    fo_option *options;
    uintptr_t option_values; /* a list that keeps the options' values alive */
    fo_group *groups;
    int32_t may_change; /* 1: a group may have changes */

    int64_t row_count, row_room;
    fo_hyper *rows;
    int64_t *row_groups, *row_steps, *row_made, *older_rows;

    const fo_layouts *layouts; /* of all arrays that a step reads or writes, but the gradients */
    int64_t layouts_count;

    uintptr_t ndarray; /* types and dtypes */
    uintptr_t grad_dtypes[FO_PLANNED_DTYPES];
    int32_t grad_flags; /* flags of NumPy's C interface that a gradient must have */

    int64_t run_count; /* the runs of memory that a step writes, in order */
    const uintptr_t *starts, *stops;
    fo_run *grad_runs; /* room for those of the gradients, if the step clears them; NULL: it does not */

    int32_t accumulate_steps;
    int32_t clips_arrays, clips_global, counts_nonfinite;
    double global_limit;
    double skip_above; /* a step whose global norm is above this is not made */
    uintptr_t names;   /* a tuple: those of all arrays */
    int64_t *skips;    /* a step sets the first number to 0 */
    fo_reading *partials, *readings;

    uintptr_t threads;                                     /* a dict whose "setting" is the number of threads */
    uintptr_t check_option, options_at, row_at, step_info; /* functions and a type */
    int32_t isa;         /* the rules of the user's own were compiled for this one; -1: there are none */
    int32_t is_laid_out; /* 1: `arrays` have the lengths and rows of those that had a gradient last */
    int32_t is_outdated; /* 1: the next plan will be another one */
} fo_plan;

/* Put the functions `planned_step(plan, hooks, grads)`, and those at the end of parts.h, into the Python dict at this
   address; return 0 if this Python can't have them. */
int32_t fo_publish(uintptr_t dict);

#endif
