/* The one place with threads: visit every chunk of every array of the table. */
#ifndef FO_PARALLEL_H
#define FO_PARALLEL_H

#include "fastopt.h"

/* Elements [begin, end) of array `index`, which are chunk number `chunk` of the whole table. */
typedef void fo_visit(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end);

/* `work` is how many elements of a light pass an element costs: it decides whether further threads are worth their
   cost. */
void fo_for_each_chunk(const fo_array *arrays, int64_t count, int32_t threads, int64_t work, fo_visit *visit,
                       const void *context);

#endif
