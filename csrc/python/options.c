/* The options: compare their objects, and take over new values. */
#include "parts.h"

#if FO_HAS_PLANS

static int is_float_in_range(const fo_option *option, PyObject *value)
{
    if (!PyFloat_CheckExact(value))
        return 0;
    const double number = PyFloat_AsDouble(value);
    return (option->low < number && number < option->high) || (option->includes_low && number == option->low) ||
           (option->includes_high && number == option->high);
}

static int is_in_range(const fo_option *option, PyObject *value)
{
    if (option->writing == FO_NUMBER)
        return is_float_in_range(option, value);
    if (option->writing != FO_NUMBERS || !PyTuple_CheckExact(value) || PyTuple_Size(value) != option->length)
        return 0;
    for (Py_ssize_t i = 0; i < option->length; i++)
        if (!is_float_in_range(option, PyTuple_GetItem(value, i)))
            return 0;
    return 1;
}

/* Put a written value into the options that the step uses; return whether the plan goes on with it. */
static int set_value(const fo_plan *plan, int64_t k, const fo_option *option, PyObject *value)
{
    PyObject *name = (PyObject *)option->key;
    if (option->writing == FO_FIXED)
        return 0;
    if (is_in_range(option, value))
        return PyDict_SetItem((PyObject *)plan->groups[k].values, name, value) == 0;
    PyObject *number = PyLong_FromLongLong(k);
    PyObject *is_taken = PyObject_CallFunctionObjArgs((PyObject *)plan->check_option, number, name, value, NULL);
    Py_XDECREF(number);
    Py_XDECREF(is_taken);
    return is_taken == Py_True;
}

/* Take over an option that the user wrote, if it is one that may be written. */
static int take_option(fo_plan *plan, int64_t k, fo_option *option, PyObject *value)
{
    fo_group *group = &plan->groups[k];
    Py_INCREF(value); /* another thread may write the option again while Python checks it */
    if (!set_value(plan, k, option, value)) {
        Py_DECREF(value);
        return 0;
    }
    if (PyList_SetItem((PyObject *)plan->option_values, (Py_ssize_t)(option - plan->options), value) != 0)
        return 0;
    option->value = (uintptr_t)value;
    group->changes |= option->changes;
    plan->may_change = 1;
    return 1;
}

/* Return whether changed options leave the group its rule. */
static int keeps_rule(const fo_group *group, PyObject *hooks)
{
    PyObject *rule = PyObject_CallMethodObjArgs(hooks, fo_name.rule, (PyObject *)group->values, NULL);
    Py_XDECREF(rule);
    return (uintptr_t)rule == group->rule;
}

static int are_same_entries(PyObject *dict, const fo_option *options, int64_t count)
{
    PyObject *key, *value;
    Py_ssize_t place = 0;
    if (PyDict_Size(dict) != count)
        return 0;
    for (int64_t k = 0; k < count && PyDict_Next(dict, &place, &key, &value); k++)
        if ((uintptr_t)key != options[k].key || (uintptr_t)value != options[k].value)
            return 0;
    return 1;
}

static int has_objects(PyObject *dict, PyObject *keys, PyObject *values)
{
    PyObject *key, *value;
    Py_ssize_t place = 0, k = 0;
    if (PyDict_Size(dict) != PyList_Size(keys) || PyDict_Size(dict) != PyList_Size(values))
        return 0;
    for (; PyDict_Next(dict, &place, &key, &value); k++)
        if (key != PyList_GetItem(keys, k) || value != PyList_GetItem(values, k))
            return 0;
    return 1;
}

PyObject *fo_same_entries(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 2 || !PyList_Check(arguments[0]) || !PyList_Check(arguments[1]))
        return PyErr_Format(PyExc_TypeError, "same_entries: expected a list of dicts, and a list of pairs of lists");
    const Py_ssize_t groups = PyList_Size(arguments[0]);
    int are_same = groups == PyList_Size(arguments[1]);
    for (Py_ssize_t k = 0; are_same && k < groups; k++) {
        PyObject *dict = PyList_GetItem(arguments[0], k), *seen = PyList_GetItem(arguments[1], k);
        are_same = PyDict_Check(dict) && has_objects(dict, PyTuple_GetItem(seen, 0), PyTuple_GetItem(seen, 1));
    }
    return PyBool_FromLong(are_same);
}

/* Compare the options of one group, and take over those that were written. */
static int take_options_of(fo_plan *plan, int64_t k, PyObject *hooks)
{
    const fo_group *group = &plan->groups[k];
    PyObject *dict = (PyObject *)group->options;
    fo_option *options = plan->options + group->first;
    if (are_same_entries(dict, options, group->count))
        return 1;
    if (PyDict_Size(dict) != group->count)
        return 0;
    for (int64_t j = 0; j < group->count; j++) {
        PyObject *value = PyDict_GetItemWithError(dict, (PyObject *)options[j].key);
        if (!value || ((uintptr_t)value != options[j].value && !take_option(plan, k, &options[j], value)))
            return 0;
    }
    return keeps_rule(group, hooks);
}

static int take_groups(fo_plan *plan, PyObject *hooks)
{
    PyObject *list = (PyObject *)plan->groups_list;
    if ((uintptr_t)fo_entry(plan->groups_dict, fo_name.groups) != plan->groups_list ||
        PyList_Size(list) != plan->group_count)
        return 0;
    for (int64_t k = 0; k < plan->group_count; k++)
        if ((uintptr_t)PyList_GetItem(list, (Py_ssize_t)k) != plan->groups[k].options ||
            !take_options_of(plan, k, hooks))
            return 0;
    return 1;
}

static int has_same_options_of_all(const fo_plan *plan)
{
    const int64_t first = plan->first_whole_option;
    return are_same_entries((PyObject *)plan->whole_options, plan->options + first, plan->option_count - first) &&
           (uintptr_t)fo_entry(plan->parameters, fo_name.frozen) == plan->frozen;
}

int fo_take_options(fo_plan *plan, PyObject *hooks)
{
    return has_same_options_of_all(plan) && take_groups(plan, hooks);
}

int fo_evaluate_options(fo_plan *plan)
{
    for (int64_t k = 0; k < plan->group_count; k++) {
        fo_group *group = &plan->groups[k];
        if (!group->is_scheduled)
            continue;
        PyObject *number = PyLong_FromLongLong(k), *step = PyLong_FromLongLong(plan->counts[0]);
        group->evaluated = (uintptr_t)PyObject_CallFunctionObjArgs((PyObject *)plan->options_at, number, step, NULL);
        Py_XDECREF(number);
        Py_XDECREF(step);
        if (!group->evaluated)
            return 0;
    }
    return 1;
}

PyObject *fo_options_of(const fo_group *group)
{
    return (PyObject *)(group->is_scheduled ? group->evaluated : group->values);
}

void fo_forget_evaluated(fo_plan *plan)
{
    for (int64_t k = 0; k < plan->group_count; k++) {
        PyObject *evaluated = (PyObject *)plan->groups[k].evaluated;
        plan->groups[k].evaluated = 0;
        Py_XDECREF(evaluated);
    }
}

#endif
