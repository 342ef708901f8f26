/* The kernels for AVX2. */
#include "compiler.h"

#if FO_HAS_X86_TARGETS
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

FO_TARGET_BEGIN(FO_AVX2_FEATURES)
#define DOUBLES 4
#define VECTORS_AT_ONCE 1
#define KERNELS fo_kernels_avx2
#include "kernels_template.h"
FO_TARGET_END
#else
typedef int fo_no_avx2; /* a translation unit must declare something */
#endif
