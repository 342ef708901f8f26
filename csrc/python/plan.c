/* A step like the last one, in one call from Python: compare pointers, check the gradients, make the rows, step, count.

   Whatever is not as it was makes the call return None; only scratch memory of the plan has changed then, and
   fastopt/core/step.py makes the step. That file is the readable statement of a step, and the one with its errors.

   Other threads, and signal handlers, run during the passes over large arrays and in functions of Python: schedules,
   hooks, checks of options. fastopt/core/turns.py has each other call of the optimizer see by marks[0] that a planned
   step is running, and a planned step gives way to the calls in the queue. Python's lock makes both one action. */
#include "parts.h"

#include <math.h>
#include <string.h>

#if !FO_HAS_PLANS

int32_t fo_publish(uintptr_t dict)
{
    (void)dict;
    return 0;
}

#else

/* With fewer elements the passes are over before another thread would have woken. */
enum { MIN_ELEMENTS_TO_UNLOCK = 1 << 15 };

fo_names fo_name;

/* In the last of the accumulated calls: return whether an array that has a sum lacks a gradient. */
static int has_unfinished_sum(const fo_plan *plan)
{
    const int64_t *calls = plan->counts + 1 + plan->count;
    for (int64_t i = 0; calls[0] > 0 && i < plan->count; i++)
        if (calls[1 + i] > 0 && !plan->grads[i])
            return 1;
    return 0;
}

static int64_t elements_of(const fo_plan *plan)
{
    int64_t elements = 0;
    for (int64_t i = 0; i < plan->count; i++)
        elements += plan->arrays[i].length;
    return elements;
}

static int32_t thread_count(const fo_plan *plan)
{
    PyObject *setting = fo_entry(plan->threads, fo_name.threads);
    return setting && PyLong_Check(setting) ? (int32_t)PyLong_AsLong(setting) : 1;
}

static void set_global_clip(fo_plan *plan, double factor)
{
    for (int64_t r = 0; r < plan->row_count; r++)
        plan->rows[r].global_clip = factor;
}

/* As fastopt.arithmetic.norms.measuring_factor. */
static double clip_factor(double norm, double max_norm)
{
    const double factor = max_norm / (norm + 1e-6);
    return 1.0 < factor || max_norm == INFINITY ? 1.0 : factor;
}

static void sum_squares(const fo_plan *plan, int32_t threads)
{
    fo_sum_products(plan->arrays, plan->grads, plan->count, plan->rows, FO_CLIPPED_GRAD, FO_CLIPPED_GRAD,
                    plan->counts_nonfinite, plan->partials, plan->readings, threads);
}

/* Read all gradients, as fastopt.backends.numpy.host.HostBackend.read does. Return whether no option skips the step. */
static int read_grads(fo_plan *plan, int is_last, int32_t threads, double *norm)
{
    const int clips_arrays = plan->clips_arrays && is_last, clips_global = plan->clips_global && is_last;
    set_global_clip(plan, 1.0);
    if (plan->clips_arrays)
        for (int64_t i = 0; i < plan->count; i++)
            plan->arrays[i].array_clip = 1.0;
    if (!clips_arrays && !clips_global && !plan->counts_nonfinite)
        return 1;
    sum_squares(plan, threads);
    for (int64_t i = 0; i < plan->count; i++)
        if (plan->readings[i].nonfinite)
            return 0;
    if (clips_arrays)
        for (int64_t i = 0; i < plan->count; i++) {
            const double limit = plan->groups[plan->planned[i].group].limit;
            plan->arrays[i].array_clip = clip_factor(sqrt(plan->readings[i].sum), limit);
        }
    if (clips_global) {
        double sum = plan->readings[0].sum;
        if (clips_arrays)
            sum_squares(plan, threads), sum = plan->readings[0].sum;
        for (int64_t i = 1; i < plan->count; i++)
            sum += plan->readings[i].sum;
        *norm = sqrt(sum);
        if (*norm > plan->skip_above)
            return 0;
        set_global_clip(plan, clip_factor(*norm, plan->global_limit));
    }
    return 1;
}

static void apply(fo_plan *plan, int32_t threads)
{
    fo_step(plan->arrays, plan->grads, plan->count, plan->rows, threads, plan->counts);
    for (int64_t r = 0; r < plan->row_count; r++)
        plan->row_steps[r]++;
}

static void accumulate(fo_plan *plan, int32_t threads)
{
    for (int64_t r = 0; r < plan->row_count; r++)
        plan->rows[r].mean = 0;
    fo_accumulate(plan->arrays, plan->grads, plan->count, plan->rows, threads, plan->counts);
    for (int64_t r = 0; r < plan->row_count; r++)
        plan->rows[r].mean = plan->groups[plan->row_groups[r]].row.mean;
}

/* Return whether the step is like the last one, as far as can be found before a number is read. Only the options may run
   Python code: they come first, before pointers to gradients are kept. */
static int is_like_last(fo_plan *plan, PyObject *hooks, PyObject *grads)
{
    int needs_rows = 0;
    if (!fo_take_options(plan, hooks) || !fo_are_in_place(plan))
        return fo_outdated(plan) == FO_PLANNED;
    return fo_flatten(plan, grads) && fo_take_grads(plan, &needs_rows) == FO_PLANNED &&
           (!needs_rows || fo_assign_rows(plan) == FO_PLANNED);
}

/* Return the learning rate of every group. */
static PyObject *learning_rates(const fo_plan *plan)
{
    PyObject *rates = PyTuple_New((Py_ssize_t)plan->group_count);
    for (int64_t k = 0; rates && k < plan->group_count; k++) {
        PyObject *lr = fo_entry((uintptr_t)fo_options_of(&plan->groups[k]), fo_name.lr);
        Py_INCREF(lr);
        PyTuple_SetItem(rates, (Py_ssize_t)k, lr);
    }
    return rates;
}

/* Return the arrays' names and the norms that were read, as StepInfo.norms_read. */
static PyObject *norms_read(const fo_plan *plan)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(plan->count * (int64_t)sizeof(double)));
    PyObject *read = bytes ? PyTuple_Pack(2, (PyObject *)plan->names, bytes) : NULL;
    for (int64_t i = 0; read && i < plan->count; i++) {
        const double norm = plan->grads[i] ? sqrt(plan->readings[i].sum) : -1;
        memcpy(PyBytes_AsString(bytes) + i * (int64_t)sizeof norm, &norm, sizeof norm);
    }
    Py_XDECREF(bytes);
    return read;
}

/* Set a fact of a StepInfo to a new object; return 0 if that fails. */
static int set_fact(PyObject *info, PyObject *name, PyObject *fact)
{
    const int is_set = fact && PyObject_SetAttr(info, name, fact) == 0;
    Py_XDECREF(fact);
    return is_set;
}

/* Return a fastopt.StepInfo, without the facts that it finds by itself. */
static PyObject *step_info(const fo_plan *plan, int is_last, double norm)
{
    const int has_norm = plan->clips_global && is_last, has_norms = (plan->clips_arrays && is_last) || has_norm;
    PyObject *lr = fo_entry((uintptr_t)fo_options_of(&plan->groups[0]), fo_name.lr);
    /* Filled in as a new tuple: the named tuple's own constructor is a Python function. */
    PyObject *info = lr ? PyType_GenericAlloc((PyTypeObject *)plan->step_info, 4) : NULL;
    if (!info)
        return NULL;
    Py_INCREF(lr);
    PyTuple_SetItem(info, 0, PyBool_FromLong(is_last));
    PyTuple_SetItem(info, 1, has_norm ? PyFloat_FromDouble(norm) : Py_BuildValue(""));
    PyTuple_SetItem(info, 2, lr);
    PyTuple_SetItem(info, 3, PyLong_FromLongLong(plan->counts[0]));
    if ((plan->group_count > 1 && !set_fact(info, fo_name.lrs, learning_rates(plan))) ||
        (has_norms && !set_fact(info, fo_name.norms, norms_read(plan))))
        Py_CLEAR(info);
    return info;
}

/* Keep the gradients alive while Python code or another thread may run. */
static void hold_grads(const fo_plan *plan)
{
    for (int64_t i = 0; i < plan->count; i++)
        Py_XINCREF((PyObject *)plan->leaves[i]);
}

static void release_grads(const fo_plan *plan)
{
    for (int64_t i = 0; i < plan->count; i++)
        Py_XDECREF((PyObject *)plan->leaves[i]);
}

/* Make the step, with or without Python's lock. */
static void pass(fo_plan *plan, int is_last, int32_t threads, int unlocks)
{
    PyThreadState *state = unlocks ? PyEval_SaveThread() : NULL;
    if (is_last)
        apply(plan, threads);
    else
        accumulate(plan, threads);
    if (unlocks)
        PyEval_RestoreThread(state);
}

static int read_unlocked(fo_plan *plan, int is_last, int32_t threads, int unlocks, double *norm)
{
    PyThreadState *state = unlocks ? PyEval_SaveThread() : NULL;
    const int are_finite = read_grads(plan, is_last, threads, norm);
    if (unlocks)
        PyEval_RestoreThread(state);
    return are_finite;
}

static void step(fo_plan *plan, PyObject *hooks, PyObject **info)
{
    const int is_last = fo_is_last_call(plan);
    const int unlocks = elements_of(plan) >= MIN_ELEMENTS_TO_UNLOCK;
    const int32_t threads = unlocks ? thread_count(plan) : 1;
    double norm = 0;
    if ((is_last && has_unfinished_sum(plan)) || !read_unlocked(plan, is_last, threads, unlocks, &norm))
        return;
    if (!fo_evaluate_options(plan) || !fo_make_rows(plan, hooks))
        return;
    pass(plan, is_last, threads, unlocks);
    plan->marks[1]++;
    plan->skips[0] = 0;
    *info = step_info(plan, is_last, norm);
}

/* Return whether no other call of the optimizer runs or waits, and the parameters have their own values. */
static int is_free(const fo_plan *plan)
{
    return plan->marks[0] == 0 && plan->marks[2] == 0 && PyList_Size((PyObject *)plan->queue) == 0;
}

static int has_its_isa(const fo_plan *plan)
{
    return plan->isa < 0 || plan->isa == fo_isa_in_use();
}

static PyObject *planned_step(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "planned_step: expected a plan, an optimizer and gradients");
    fo_plan *plan = PyLong_AsVoidPtr(arguments[0]);
    PyObject *info = NULL;
    plan->is_outdated |= !has_its_isa(plan);
    if (plan->is_outdated || !is_free(plan))
        return Py_BuildValue("");
    plan->marks[0] = (int64_t)PyThread_get_thread_ident();
    if (is_like_last(plan, arguments[1], arguments[2])) {
        hold_grads(plan);
        step(plan, arguments[1], &info);
        release_grads(plan);
        fo_forget_evaluated(plan);
    }
    plan->marks[0] = 0;
    return info || PyErr_Occurred() ? info : Py_BuildValue("");
}

#define METHOD(name, function) {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    METHOD("planned_step", planned_step),
    METHOD("same_entries", fo_same_entries),
    METHOD("note_tensors", fo_note_tensors),
    METHOD("move_to_gradients", fo_move_to_gradients),
};

static int publish(PyObject *dict, PyMethodDef *method)
{
    PyObject *function = PyCFunction_NewEx(method, NULL, NULL);
    const int is_published = function && PyDict_SetItemString(dict, method->ml_name, function) == 0;
    Py_XDECREF(function);
    return is_published;
}

int32_t fo_publish(uintptr_t dict)
{
    PyGILState_STATE state = PyGILState_Ensure();
    fo_name = (fo_names){.frozen = PyUnicode_InternFromString("frozen"),
                         .grad = PyUnicode_InternFromString("grad"),
                         .groups = PyUnicode_InternFromString("param_groups"),
                         .hyper = PyUnicode_InternFromString("hyper"),
                         .lr = PyUnicode_InternFromString("lr"),
                         .lrs = PyUnicode_InternFromString("lrs"),
                         .norms = PyUnicode_InternFromString("norms_read"),
                         .rule = PyUnicode_InternFromString("rule"),
                         .threads = PyUnicode_InternFromString("setting")};
    int are_published = 1;
    for (size_t k = 0; k < sizeof methods / sizeof *methods; k++)
        are_published &= publish((PyObject *)dict, &methods[k]);
    PyGILState_Release(state);
    return are_published;
}

#endif
