/* The kernels for the instructions that every machine of this architecture has: SSE2 on x86-64, NEON on 64-bit ARM. */
#define KERNELS fo_kernels_baseline
#include "kernels_template.h"
