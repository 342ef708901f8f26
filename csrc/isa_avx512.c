/* The kernels for AVX-512. */
#include "compiler.h"

#if FO_HAS_X86_TARGETS
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

FO_TARGET_BEGIN(FO_AVX512_FEATURES)
#define DOUBLES 8
#define VECTORS_AT_ONCE 4
#define KERNELS fo_kernels_avx512
#include "kernels_template.h"
FO_TARGET_END
#else
typedef int fo_no_avx512; /* a translation unit must declare something */
#endif
