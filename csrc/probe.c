/* Whether the kernels round every operation by itself, in the order in which the rules are written. A build without the
   flags of setup.py may contract a product and a sum into one operation, compute in a wider type, or reorder. */
#include "isa.h"
#include "rules.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { LENGTH = 2 * 16 + 3 }; /* whole vectors of every instruction set, and a remainder */

#define RULE(name) RULE_##name,
enum { FO_RULES(RULE) };
#undef RULE

static const double decay = 0.7, alpha = 0.9, one_minus_alpha = 0.1, lr = 0.3, eps = 1e-8, eps_root = 0.01;

#define REAL float
#define REAL_DTYPE FO_FLOAT32
#define SQRT(x) sqrtf(x)
#define SMALLEST FLT_MIN
#define NAME(x) x##_float32
#include "probe_template.h"

#define REAL double
#define REAL_DTYPE FO_FLOAT64
#define SQRT(x) sqrt(x)
#define SMALLEST DBL_MIN
#define NAME(x) x##_float64
#include "probe_template.h"

int32_t fo_isa_keeps_bits(int32_t isa)
{
    const fo_kernels *kernels = fo_kernels_of(isa);
    const fo_mode before = fo_use_default_mode();
    const int32_t result = keeps_bits_float32(kernels) && keeps_bits_float64(kernels);
    fo_restore_mode(before);
    return result;
}
