/* The gradients of tensors as arrays of NumPy: the same arrays are moved to them, since asking each tensor from Python,
   or making new arrays, takes longer than the step of a small net. */
#include "parts.h"

#include "../ndarray.h"
#include "tensors.h"

#if FO_HAS_PLANS

/* DLPack's interface for C, as its version 1.3 has it: https://dmlc.github.io/dlpack/latest/c_api.html */
typedef struct {
    char *data;
    int32_t device, device_number;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
} dl_tensor;

typedef struct {
    uint32_t major, minor;
    void *older;
    void (*unused[3])(void);
    int (*read)(void *object, dl_tensor *tensor); /* the tensor's memory and numbers stay its own */
    void (*unused_too)(void);
} dl_exchange;

enum { DL_MAJOR = 1, DL_CPU = 1 };

static char *memory_of(const dl_tensor *tensor)
{
    return tensor->data + tensor->offset;
}

static int32_t dtype_of(const dl_tensor *tensor)
{
    return tensor->code << 24 | tensor->bits << 16 | tensor->lanes;
}

/* Return whether a tensor is one on the CPU. One without an array's memory is none: C++ raises for it, in a
   millisecond. */
static int read_tensor(fo_tensors *all, PyObject *object, dl_tensor *tensor)
{
    const dl_exchange *exchange = all->exchange;
    if (exchange->read(object, tensor) != 0) {
        PyErr_Clear();
        all->is_ended = 1;
        return 0;
    }
    return tensor->device == DL_CPU && (tensor->dimensions == 0 || tensor->strides);
}

/* Return whether a tensor has the dtype and shape of a parameter, and its elements are in the same order. */
static int is_like(const dl_tensor *tensor, const fo_tensor *param, const int64_t *lengths)
{
    int64_t size = 1;
    int is_same_order = 1;
    if (tensor->dimensions != param->dimensions || dtype_of(tensor) != param->dtype)
        return 0;
    for (int32_t k = 0; k < param->dimensions; k++) {
        const int64_t length = lengths[param->first + 2 * k], stride = lengths[param->first + 2 * k + 1];
        if (tensor->shape[k] != length)
            return 0;
        is_same_order &= length == 1 || tensor->strides[k] == stride;
        size *= length;
    }
    return size == 0 ||
           (is_same_order && tensor->data && (uintptr_t)memory_of(tensor) % (uintptr_t)param->itemsize == 0);
}

static int is_false(uintptr_t function, PyObject *argument)
{
    PyObject *answer = PyObject_CallFunctionObjArgs((PyObject *)function, argument, NULL);
    Py_XDECREF(answer);
    return answer == Py_False;
}

/* Return the gradient of parameter number i; None if it has none; NULL if its array can't be moved to it, or if code of
   the tensor's class raises. */
static PyObject *take_gradient(fo_tensors *all, int64_t i, PyObject *param)
{
    const fo_tensor *its = &all->tensors[i];
    dl_tensor tensor;
    if (!read_tensor(all, param, &tensor) || memory_of(&tensor) != its->memory || !is_like(&tensor, its, all->lengths))
        return NULL;
    PyObject *gradient = PyObject_GetAttr(param, fo_name.grad);
    if (!gradient || gradient == Py_None)
        return gradient;
    if (read_tensor(all, gradient, &tensor) && is_like(&tensor, its, all->lengths) &&
        is_false(all->is_refused, gradient)) {
        fo_move((fo_ndarray *)its->array, memory_of(&tensor));
        return gradient;
    }
    Py_DECREF(gradient);
    return NULL;
}

/* Return the arrays of the gradients that are there, and None for the others. */
static PyObject *arrays_of(const fo_tensors *all, PyObject *gradients, int64_t missing)
{
    PyObject *arrays = missing ? PyList_New((Py_ssize_t)all->count) : (PyObject *)all->arrays;
    if (!missing)
        Py_INCREF(arrays);
    for (Py_ssize_t i = 0; missing && arrays && i < (Py_ssize_t)all->count; i++) {
        const int is_missing = PyList_GetItem(gradients, i) == Py_None;
        PyObject *array = is_missing ? Py_None : (PyObject *)all->tensors[i].array;
        Py_INCREF(array);
        PyList_SetItem(arrays, i, array);
    }
    return arrays;
}

PyObject *fo_move_to_gradients(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "move_to_gradients: expected tensors and a list of parameters");
    fo_tensors *all = PyLong_AsVoidPtr(arguments[0]);
    PyObject *params = arguments[1];
    if (all->is_ended || !PyList_Check(params) || PyList_Size(params) != (Py_ssize_t)all->count)
        return Py_BuildValue("");
    PyObject *gradients = PyList_New((Py_ssize_t)all->count);
    int64_t missing = 0;
    for (int64_t i = 0; gradients && i < all->count; i++) {
        PyObject *param = PyList_GetItem(params, (Py_ssize_t)i);
        Py_XINCREF(param);
        PyObject *gradient = param ? take_gradient(all, i, param) : NULL;
        Py_XDECREF(param);
        if (!gradient) {
            Py_DECREF(gradients);
            return PyErr_Occurred() ? NULL : Py_BuildValue("");
        }
        missing += gradient == Py_None;
        PyList_SetItem(gradients, (Py_ssize_t)i, gradient);
    }
    PyObject *arrays = gradients ? arrays_of(all, gradients, missing) : NULL;
    PyObject *both = arrays ? PyTuple_Pack(2, gradients, arrays) : NULL;
    Py_XDECREF(gradients);
    Py_XDECREF(arrays);
    return both;
}

/* Note how a parameter lies in memory; return 0 if that can't be, or it has another number of axes than its array. */
static int note(fo_tensors *all, fo_tensor *its, PyObject *param)
{
    dl_tensor tensor;
    if (!read_tensor(all, param, &tensor) || tensor.dimensions != its->dimensions)
        return 0;
    its->memory = memory_of(&tensor);
    its->dtype = dtype_of(&tensor);
    its->itemsize = tensor.bits / 8;
    for (int32_t k = 0; k < its->dimensions; k++) {
        all->lengths[its->first + 2 * k] = tensor.shape[k];
        all->lengths[its->first + 2 * k + 1] = tensor.strides[k];
    }
    return its->itemsize > 0;
}

PyObject *fo_note_tensors(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 3)
        return PyErr_Format(PyExc_TypeError,
                            "note_tensors: expected tensors, their interface and a list of parameters");
    fo_tensors *all = PyLong_AsVoidPtr(arguments[0]);
    const dl_exchange *exchange = PyCapsule_GetPointer(arguments[1], "dlpack_exchange_api");
    if (!exchange)
        return NULL;
    int are_noted = exchange->major == DL_MAJOR && exchange->read;
    all->exchange = (void *)exchange;
    for (int64_t i = 0; are_noted && i < all->count; i++) {
        PyObject *param = PyList_GetItem(arguments[2], (Py_ssize_t)i);
        if (!param)
            return NULL;
        are_noted = note(all, &all->tensors[i], param);
    }
    return PyBool_FromLong(are_noted);
}

#endif
