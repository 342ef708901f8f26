/* Read many NumPy arrays in one call: asking each one from Python takes longer than a step. */
#include "ndarray.h"
#include "fastopt.h"

#include <string.h>

int fo_same_shape(const fo_ndarray *array, const fo_ndarray *model)
{
    return array->dimensions == model->dimensions &&
           (array->dimensions == 0 ||
            memcmp(array->shape, model->shape, (size_t)array->dimensions * sizeof *array->shape) == 0);
}

/* Return whether an array has this type, these flags, the shape of `model`, and this dtype, if that is not 0. */
static int is_like(const fo_ndarray *array, const fo_ndarray *model, uintptr_t type, uintptr_t dtype, int32_t flags)
{
    return array->type == type && (dtype == 0 || array->dtype == dtype) && (array->flags & flags) == flags &&
           fo_same_shape(array, model);
}

int32_t fo_find_memory(const uintptr_t *arrays, const uintptr_t *models, const uintptr_t *dtypes, int64_t count,
                       uintptr_t type, int32_t flags, void **memory)
{
    for (int64_t i = 0; i < count; i++) {
        const fo_ndarray *array = (const fo_ndarray *)arrays[i];
        if (!is_like(array, (const fo_ndarray *)models[i], type, dtypes ? dtypes[i] : 0, flags))
            return 0;
        memory[i] = array->memory;
    }
    return 1;
}

int64_t fo_record_layouts(fo_layout *layouts, int64_t count, intptr_t *shapes)
{
    int64_t first = 0;
    for (int64_t i = 0; i < count; i++) {
        const fo_ndarray *array = (const fo_ndarray *)layouts[i].array;
        if (shapes) {
            layouts[i].dtype = array->dtype;
            layouts[i].memory = array->memory;
            layouts[i].first = first;
            layouts[i].dimensions = array->dimensions;
            layouts[i].order = array->flags & FO_C_ORDER ? FO_C_ORDER : FO_F_ORDER;
            for (int32_t k = 0; k < array->dimensions; k++)
                shapes[first + k] = array->shape[k];
        }
        first += array->dimensions;
    }
    return first;
}

static int is_kept(const fo_layout *layout, const intptr_t *shapes, int32_t flags)
{
    const fo_ndarray *array = (const fo_ndarray *)layout->array;
    const intptr_t *shape = shapes + layout->first;
    flags |= layout->order;
    if (array->memory != layout->memory || array->dtype != layout->dtype || (array->flags & flags) != flags ||
        array->dimensions != layout->dimensions)
        return 0;
    for (int32_t k = 0; k < layout->dimensions; k++)
        if (array->shape[k] != shape[k])
            return 0;
    return 1;
}

int32_t fo_are_kept(const fo_layouts *each, int64_t count, int64_t *changed)
{
    for (int64_t k = 0; k < count; k++)
        for (int64_t i = 0; !each[k].hidden_by && i < each[k].count; i++)
            if (!is_kept(&each[k].layouts[i], each[k].shapes, each[k].flags)) {
                changed[0] = k;
                changed[1] = i;
                return 0;
            }
    return 1;
}

/* Both axes of a matrix are cut into tiles, so that the cache lines of its columns are used whole. */
enum { TILE = 32 };

#define COPY_MATRIX(name, type)                                                                                      \
    static void name(const char *from, intptr_t rows, intptr_t columns, intptr_t row_stride, intptr_t column_stride, \
                     char *into)                                                                                     \
    {                                                                                                                \
        for (intptr_t row_tile = 0; row_tile < rows; row_tile += TILE)                                               \
            for (intptr_t column_tile = 0; column_tile < columns; column_tile += TILE)                               \
                for (intptr_t i = row_tile; i < row_tile + TILE && i < rows; i++)                                    \
                    for (intptr_t j = column_tile; j < column_tile + TILE && j < columns; j++)                       \
                        memcpy(into + (i * columns + j) * (intptr_t)sizeof(type),                                    \
                               from + i * row_stride + j * column_stride, sizeof(type));                             \
    }

COPY_MATRIX(copy_2_bytes, uint16_t)
COPY_MATRIX(copy_4_bytes, uint32_t)
COPY_MATRIX(copy_8_bytes, uint64_t)

/* Return which axis comes at this place of the order to copy in. */
static int32_t axis_at(const fo_ndarray *array, int32_t place, int is_reversed)
{
    return is_reversed ? array->dimensions - 1 - place : place;
}

/* Copy the matrices of the last two axes, from the place `place` on; return the memory after them. */
static char *copy_from(const fo_ndarray *array, int64_t itemsize, int is_reversed, int32_t place, const char *from,
                       char *into)
{
    const int32_t left = array->dimensions - place;
    const int32_t axis = left > 0 ? axis_at(array, place, is_reversed) : 0;
    const intptr_t length = left > 0 ? array->shape[axis] : 1, stride = left > 0 ? array->strides[axis] : 0;
    if (left <= 2) {
        const int32_t last = left > 1 ? axis_at(array, place + 1, is_reversed) : axis;
        const intptr_t rows = left > 1 ? length : 1, columns = left > 1 ? array->shape[last] : length;
        const intptr_t column_stride = left > 1 ? array->strides[last] : stride;
        (itemsize == 8   ? copy_8_bytes
         : itemsize == 4 ? copy_4_bytes
                         : copy_2_bytes)(from, rows, columns, stride, column_stride, into);
        return into + rows * columns * itemsize;
    }
    for (intptr_t i = 0; i < length; i++)
        into = copy_from(array, itemsize, is_reversed, place + 1, from + i * stride, into);
    return into;
}

void fo_copy_in_order(const fo_ndarray *array, int64_t itemsize, int is_reversed, void *memory)
{
    copy_from(array, itemsize, is_reversed, 0, array->memory, memory);
}
