/* Where the memory of many NumPy arrays is, in one call: asking each from Python takes longer than a step of it. */
#include "fastopt.h"

#include <string.h>

/* CPython's PyObject and NumPy's PyArrayObject_fields behind it, a layout that NumPy's ABI promises. Whether it is this
   one is tried out when the backend is imported (fastopt/backends/native.py). */
typedef struct {
    intptr_t references;
    uintptr_t type;
    void *memory;
    int32_t dimensions;
    intptr_t *shape;
    intptr_t *strides;
    void *base;
    uintptr_t dtype;
    int32_t flags;
} fo_ndarray;

/* `model` is an array of the wanted shape. */
static int is_like(const fo_ndarray *array, const fo_ndarray *model, uintptr_t type, uintptr_t dtype, int32_t flags)
{
    return array->type == type && array->dtype == dtype && (array->flags & flags) == flags &&
           array->dimensions == model->dimensions &&
           (array->dimensions == 0 ||
            memcmp(array->shape, model->shape, (size_t)array->dimensions * sizeof *array->shape) == 0);
}

int32_t fo_find_memory(const uintptr_t *arrays, const uintptr_t *models, const uintptr_t *dtypes, int64_t count,
                       uintptr_t type, int32_t flags, void **memory)
{
    for (int64_t i = 0; i < count; i++) {
        const fo_ndarray *array = (const fo_ndarray *)arrays[i];
        if (!is_like(array, (const fo_ndarray *)models[i], type, dtypes[i], flags))
            return 0;
        memory[i] = array->memory;
    }
    return 1;
}
