/* What the kernels of sparse coding share (coordinates_template.h). */
#ifndef FO_COORDINATES_H
#define FO_COORDINATES_H

#include "fastopt.h"

enum {
    CODING_ROWS = 16,    /* rows that one thread takes at a time */
    CODING_LANES = 2,    /* rows that are solved at the same time: the steps of one hide the latency of the other's */
    CODING_COMPACT = 96, /* up to this many atoms in use have a Gram matrix of their own */
    CODING_SWEEPS = 64,  /* the most sweeps over the atoms in use before all atoms are looked at again */
    CODING_CACHE = 32768 /* elements of the dictionary that stay in the cache while rows are multiplied with them */
};

/* How close to the threshold of the atoms that come into use: a part of the way up to the largest correlation. */
#define CODING_ENTRY 0.5
/* Sweeps end when the largest violation is below this part of that of the atoms not in use, */
#define CODING_COARSE 0.2
/* or when it makes up this part of the duality gap that is allowed. */
#define CODING_FINE 0.4

#endif
