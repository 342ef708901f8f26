/* The kernels for the instructions that every machine of this architecture has: SSE2 on x86-64, NEON on 64-bit ARM. */
#include "compiler.h"

#define DOUBLES (FO_HAS_VECTORS ? 2 : 1)
#define VECTORS_AT_ONCE 1
#define KERNELS fo_kernels_baseline
#include "kernels_template.h"
