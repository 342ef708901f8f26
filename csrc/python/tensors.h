/* Tensors, and arrays of NumPy that are moved to the memory of their gradients. cffi reads this file too, without the
   lines that begin with #. */
#ifndef FO_TENSORS_H
#define FO_TENSORS_H

#include <stdint.h>

/* A parameter as it lay in memory, and the array for its gradients. */
typedef struct {
    uintptr_t array; /* NumPy's object */
    void *memory;
    int64_t first; /* the place of its lengths in the list of all, each followed by its stride */
    int32_t dimensions;
    int32_t dtype; /* DLPack's code, bits and lanes */
    int64_t itemsize;
} fo_tensor;

/* The parameters of an optimizer. Objects are given by their addresses. */
typedef struct {
    int64_t count;
    fo_tensor *tensors;
    int64_t *lengths;
    uintptr_t arrays;     /* the list of the arrays */
    uintptr_t is_refused; /* a function: whether a gradient's memory does not have its values */
    void *exchange;       /* the tensors' interface for C, of DLPack */
    int32_t is_ended;     /* 1: a tensor can't be read, and to try again takes long */
} fo_tensors;

#endif
