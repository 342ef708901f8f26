/* Find the memory of many NumPy arrays in one call: asking each one from Python takes longer than a step. */
#include "fastopt.h"

#include <string.h>

/* CPython's PyObject, then NumPy's PyArrayObject_fields: a layout that NumPy's ABI promises. The backend checks it when
   it is imported (fastopt/backends/native/ndarrays.py). */
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

/* Return whether an array has this type, dtype, these flags, and the shape of `model`. */
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
