/* NumPy's array objects as C reads them. */
#ifndef FO_NDARRAY_H
#define FO_NDARRAY_H

#include <stdint.h>

/* CPython's PyObject, then NumPy's PyArrayObject_fields: a layout that NumPy's ABI promises. The backend checks it when
   it is imported (fastopt/backends/native/ndarrays.py). */
typedef struct {
    intptr_t references;
    uintptr_t type;
    char *memory;
    int32_t dimensions;
    intptr_t *shape;
    intptr_t *strides;
    void *base;
    uintptr_t dtype;
    int32_t flags;
} fo_ndarray;

/* Flags of NumPy's C interface. */
enum { FO_C_ORDER = 0x0001, FO_F_ORDER = 0x0002, FO_ALIGNED = 0x0100, FO_WRITEABLE = 0x0400 };

/* Return whether two arrays have the same shape. */
int fo_same_shape(const fo_ndarray *array, const fo_ndarray *model);

/* Put an array over other memory: of its layout, and aligned for its dtype. */
static inline void fo_move(fo_ndarray *array, char *memory)
{
    array->memory = memory;
}

/* Copy an array of any strides into one run of memory, in C order or with its axes reversed. `itemsize` is 2, 4 or 8. */
void fo_copy_in_order(const fo_ndarray *array, int64_t itemsize, int is_reversed, void *memory);

#endif
