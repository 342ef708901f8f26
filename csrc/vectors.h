/* Vectors of doubles that fill a register of the instruction set. Wider ones would go through memory, and so would the
   running sums of a plain loop. isa_*.c define DOUBLES, how many doubles a register has; 1: plain numbers. */
#ifndef FO_VECTORS_H
#define FO_VECTORS_H

#include "compiler.h"

#if DOUBLES == 1
typedef double fo_vector;
typedef double fo_vector_at;
#define LOAD_FLOAT32(from) ((double)*(from))
#else
FO_VECTOR(fo_vector, DOUBLES, 8 * DOUBLES);
FO_VECTOR(fo_vector_at, DOUBLES, 8); /* at any address of a double */
#if DOUBLES == 2
#define LOAD_FLOAT32(from) ((fo_vector){(from)[0], (from)[1]})
#elif DOUBLES == 4
#define LOAD_FLOAT32(from) ((fo_vector){(from)[0], (from)[1], (from)[2], (from)[3]})
#else
#define LOAD_FLOAT32(from) \
    ((fo_vector){(from)[0], (from)[1], (from)[2], (from)[3], (from)[4], (from)[5], (from)[6], (from)[7]})
#endif
#endif

#define LOAD_FLOAT64(from) (*(const fo_vector_at *)(from))
#define STORE(into, vector) (*(fo_vector_at *)(into) = (vector))

#endif
