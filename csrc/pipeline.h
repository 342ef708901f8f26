/* The block pipeline for one dtype and one instruction set: prepare, rule, in blocks that stay in the L1 cache.
   Template parameters: REAL, REAL_DTYPE (its fo_dtype), SQRT(x), ABSOLUTE(x), NAME(x), SCALARS(x). Undefines them
   at its end. */

/* NumPy's functions of these names, bit for bit: NaN passes through, the sign of either zero is +0. */
#define MAXIMUM(a, b) ((a) > (b) || (a) != (a) ? (a) : (b))
#define MINIMUM(a, b) ((a) < (b) || (a) != (a) ? (a) : (b))
#define SIGN(a) ((a) != (a) ? (a) : ((a) > 0 ? (REAL)1 : (REAL)0) - ((a) < 0 ? (REAL)1 : (REAL)0))
#define WHERE(condition, a, b) ((condition) ? (a) : (b))

#include "rules.h"

static void NAME(convert)(REAL *restrict out, const void *grad, int32_t dtype, int64_t begin, int64_t length)
{
    switch (dtype) {
    case FO_FLOAT32: {
        const float *g = (const float *)grad + begin;
        FO_SIMD
        for (int64_t i = 0; i < length; i++)
            out[i] = (REAL)g[i];
        break;
    }
    case FO_FLOAT64: {
        const double *g = (const double *)grad + begin;
        FO_SIMD
        for (int64_t i = 0; i < length; i++)
            out[i] = (REAL)g[i];
        break;
    }
    case FO_FLOAT16: {
        const uint16_t *g = (const uint16_t *)grad + begin;
        FO_SIMD
        for (int64_t i = 0; i < length; i++)
            out[i] = (REAL)fo_float16_to_float32(g[i]);
        break;
    }
    default: {
        const uint16_t *g = (const uint16_t *)grad + begin;
        FO_SIMD
        for (int64_t i = 0; i < length; i++)
            out[i] = (REAL)fo_bfloat16_to_float32(g[i]);
        break;
    }
    }
}

/* Everything that every optimizer does to a gradient, but the decay: returns the caller's own memory where there is
   nothing to do, else `scratch`. */
static const REAL *NAME(clipped_grad)(REAL *restrict scratch, const fo_array *array, const void *grad, int64_t begin,
                                      int64_t length, const fo_hyper *hyper)
{
    const REAL scale = (REAL)hyper->grad_scale, limit = (REAL)hyper->clip_value;
    const REAL array_clip = (REAL)array->array_clip, global_clip = (REAL)hyper->global_clip;
    const REAL *g = (const REAL *)grad + begin;
    if (array->grad_dtype != REAL_DTYPE) {
        NAME(convert)(scratch, grad, array->grad_dtype, begin, length);
        g = scratch;
    }
    if (scale == 1 && limit == (REAL)INFINITY && array_clip == 1 && global_clip == 1)
        return g;
    FO_SIMD
    for (int64_t i = 0; i < length; i++) {
        REAL x = g[i] * scale;
        x = x > limit ? limit : x;
        x = x < -limit ? -limit : x;
        scratch[i] = x * array_clip * global_clip;
    }
    return scratch;
}

static const REAL *NAME(add_l2)(REAL *restrict scratch, const REAL *g, const REAL *restrict p, int64_t length, REAL l2)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        scratch[i] = g[i] + l2 * p[i];
    return scratch;
}

static void NAME(decay_param)(REAL *restrict p, int64_t length, REAL decay)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        p[i] = p[i] * decay;
}

typedef void NAME(rule_loop)(REAL *restrict p, const REAL *restrict g, void *const *slots, int64_t begin,
                             int64_t length, const double *scalars);

#define RULE(name) NAME(name##_loop),
static NAME(rule_loop) *const NAME(rule_loops)[] = {FO_RULES(RULE)};
#undef RULE

static void NAME(step_chunk)(const fo_array *array, const void *grad, int64_t begin, int64_t end,
                             const fo_hyper *hyper)
{
    REAL scratch[FO_BLOCK];
    NAME(rule_loop) *const rule = NAME(rule_loops)[hyper->rule];
    for (int64_t i = begin; i < end; i += FO_BLOCK) {
        const int64_t length = end - i < FO_BLOCK ? end - i : FO_BLOCK;
        REAL *p = (REAL *)array->param + i;
        const REAL *g = NAME(clipped_grad)(scratch, array, grad, i, length, hyper);
        if (hyper->l2 != 0)
            g = NAME(add_l2)(scratch, g, p, length, (REAL)hyper->l2);
        if (hyper->decay != 1)
            NAME(decay_param)(p, length, (REAL)hyper->decay);
        rule(p, g, array->slots, i, length, hyper->scalars);
    }
}

static const REAL *NAME(block_of)(REAL *restrict scratch, const fo_array *array, const void *grad, int64_t begin,
                                  int64_t length, const fo_hyper *hyper, int32_t source)
{
    const REAL *p = (const REAL *)array->param + begin;
    if (source == FO_PARAM)
        return p;
    if (source >= 0)
        return (const REAL *)array->slots[source] + begin;
    const REAL *g = NAME(clipped_grad)(scratch, array, grad, begin, length, hyper);
    return source == FO_CLIPPED_GRAD || hyper->l2 == 0 ? g : NAME(add_l2)(scratch, g, p, length, (REAL)hyper->l2);
}

/* FO_LANES running sums, folded in halves: fixed by the element's index alone, so that every machine has the same bits. */
static double NAME(sum_products_chunk)(const fo_array *array, const void *grad, int64_t begin, int64_t end,
                                       const fo_hyper *hyper, int32_t left, int32_t right)
{
    REAL left_scratch[FO_BLOCK], right_scratch[FO_BLOCK];
    double lanes[FO_LANES] = {0};
    for (int64_t block = begin; block < end; block += FO_BLOCK) {
        const int64_t length = end - block < FO_BLOCK ? end - block : FO_BLOCK;
        const REAL *a = NAME(block_of)(left_scratch, array, grad, block, length, hyper, left), *b = a;
        if (right != left)
            b = NAME(block_of)(right_scratch, array, grad, block, length, hyper, right);
        int64_t i = 0;
        for (; i + FO_LANES <= length; i += FO_LANES) {
            FO_SIMD
            for (int k = 0; k < FO_LANES; k++)
                lanes[k] += (double)a[i + k] * (double)b[i + k];
        }
        for (int k = 0; i + k < length; k++)
            lanes[k] += (double)a[i + k] * (double)b[i + k];
    }
    for (int half = FO_LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            lanes[k] += lanes[k + half];
    return lanes[0];
}

#undef MAXIMUM
#undef MINIMUM
#undef SIGN
#undef WHERE
#undef REAL
#undef REAL_DTYPE
#undef SQRT
#undef ABSOLUTE
#undef NAME
#undef SCALARS
