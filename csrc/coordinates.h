/* The structs and constants that the kernels of sparse coding share (coordinates_template.h). */
#ifndef FO_COORDINATES_H
#define FO_COORDINATES_H

#include "fastopt.h"

enum {
    CODING_ROWS = 16,     /* rows that one thread takes at a time */
    CODING_LANES = 2,     /* rows that are solved at the same time: the steps of one hide the latency of the other's */
    CODING_COMPACT = 128, /* up to this many atoms in use have a Gram matrix of their own */
    CODING_JUMP = CODING_COMPACT * (CODING_COMPACT + 1), /* doubles of memory that a jump needs */
    CODING_SWEEPS = 8,   /* the most sweeps over the atoms in use before a jump, and a look at all atoms */
    CODING_CACHE = 32768 /* elements of the dictionary that stay in the cache while rows are multiplied with them */
};

/* How close to the threshold of the atoms that come into use: a part of the way up to the largest correlation. */
#define CODING_ENTRY 0.5
/* Sweeps end when the largest violation is below this part of that of the atoms not in use, */
#define CODING_COARSE 0.2
/* or when it makes up this part of the duality gap that is allowed. */
#define CODING_FINE 0.4
/* A code is left out of a jump where its pivot is not above this part of its diagonal element: float32 rounds there. */
#define CODING_PIVOT 1e-6

#endif
