/* The block pipeline for one compute dtype and one instruction set: prepare, rule, finish, in blocks that stay in the
   L1 cache. fastopt/arithmetic/pipeline.py is the twin.

   This template expects:
     REAL         the compute dtype: float or double
     REAL_DTYPE   its fo_dtype
     STORED       1 if memory may be of other dtypes (storage.h), else 0
     SQRT(x)      the square root in that type
     ABSOLUTE(x)  the magnitude in that type
     SMALLEST     the smallest normal number of that type
     NAME(x)      x with a suffix for this type
     LOAD(from)   the next numbers from there on as an fo_vector (vectors.h)
     SCALARS(x)   the name of the struct of rule x's scalars
   It undefines them at its end. */

/* NumPy's functions of these names, bit for bit: they return a NaN if there is one, and SIGN of either zero is +0. */
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

/* Return a block of the parameter in the compute dtype: its own memory, or `scratch` if that is of another dtype. */
static REAL *NAME(param_block)(REAL *restrict scratch, const fo_array *array, int64_t begin, int64_t length)
{
#if STORED
    if (array->param_dtype != REAL_DTYPE) {
        load_block(scratch, array->param, NULL, array->param_dtype, begin, length);
        return scratch;
    }
#endif
    (void)scratch, (void)length;
    return (REAL *)array->param + begin;
}

/* Return a block of the gradient in the compute dtype, scaled, with the gradients accumulated before it: the caller's
   own memory if there is nothing to do, else `scratch`. */
static const REAL *NAME(scaled_grad)(REAL *restrict scratch, const fo_array *array, const void *grad, int64_t begin,
                                     int64_t length, const fo_hyper *hyper)
{
    const REAL scale = (REAL)hyper->grad_scale, mean = (REAL)hyper->mean;
    const REAL *g = (const REAL *)grad + begin;
    if (array->grad_dtype != REAL_DTYPE) {
        NAME(convert)(scratch, grad, array->grad_dtype, begin, length);
        g = scratch;
    }
    if (mean != 0) {
        const REAL *accumulated = (const REAL *)array->accumulated + begin;
        FO_SIMD
        for (int64_t i = 0; i < length; i++)
            scratch[i] = (accumulated[i] + g[i] * scale) * mean;
        return scratch;
    }
    if (scale == 1)
        return g;
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        scratch[i] = g[i] * scale;
    return scratch;
}

/* NaN stays NaN. */
static inline REAL NAME(clip_value)(REAL x, REAL limit)
{
    x = x > limit ? limit : x;
    return x < -limit ? -limit : x;
}

static const REAL *NAME(clipped_grad)(REAL *restrict scratch, const REAL *g, const fo_array *array, int64_t length,
                                      const fo_hyper *hyper)
{
    const REAL limit = (REAL)hyper->clip_value;
    const REAL array_clip = (REAL)array->array_clip, global_clip = (REAL)hyper->global_clip;
    if (limit == (REAL)INFINITY && array_clip == 1 && global_clip == 1)
        return g;
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        scratch[i] = NAME(clip_value)(g[i], limit) * array_clip * global_clip;
    return scratch;
}

static const REAL *NAME(add_l2)(REAL *restrict scratch, const REAL *g, const REAL *restrict p, int64_t length, REAL l2)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        scratch[i] = g[i] + l2 * p[i];
    return scratch;
}

static const REAL *NAME(add_l1)(REAL *restrict scratch, const REAL *g, const REAL *restrict p, int64_t length, REAL l1)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++) {
        const REAL sign = (REAL)((p[i] > 0) - (p[i] < 0));
        scratch[i] = g[i] + l1 * sign;
    }
    return scratch;
}

typedef void NAME(rule_loop)(REAL *restrict p, const REAL *restrict g, void *const *slots, int64_t begin,
                             int64_t length, REAL decay, const double *scalars);

#define RULE(name) NAME(name##_loop),
static NAME(rule_loop) *const NAME(rule_loops)[] = {FO_RULES(RULE)};
#undef RULE

/* Move the parameter towards 0 by `threshold`, and stop there. */
static void NAME(soft_threshold)(REAL *restrict p, int64_t length, REAL threshold)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        p[i] = p[i] - NAME(clip_value)(p[i], threshold);
}

/* Decay only where the rule moved the parameter towards 0, or not at all. */
static void NAME(decay_cautiously)(REAL *restrict p, const REAL *restrict before, int64_t length, REAL weight)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++) {
        const REAL decaying = (before[i] - p[i]) * before[i] >= 0 ? before[i] : 0;
        p[i] = p[i] - weight * decaying;
    }
}

static void NAME(bound)(REAL *restrict p, int64_t length, REAL lower, REAL upper)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++) {
        const REAL raised = p[i] < lower ? lower : p[i];
        p[i] = raised > upper ? upper : raised;
    }
}

static void NAME(bound_below)(REAL *restrict p, const REAL *restrict lower, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        p[i] = p[i] < lower[i] ? lower[i] : p[i];
}

static void NAME(bound_above)(REAL *restrict p, const REAL *restrict upper, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        p[i] = p[i] > upper[i] ? upper[i] : p[i];
}

/* Numbers that decay without an end stay subnormal for ever, and arithmetic on subnormal numbers is slow. */
static void NAME(flush)(REAL *restrict x, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        x[i] = ABSOLUTE(x[i]) < SMALLEST ? 0 : x[i];
}

static void NAME(blend_average)(REAL *restrict average, const REAL *restrict p, int64_t length, REAL weight)
{
    if (weight == 1) {
        memcpy(average, p, (size_t)length * sizeof(REAL));
        return;
    }
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        average[i] = average[i] + weight * (p[i] - average[i]);
}

static void NAME(clear_grad)(const fo_array *array, void *grad, int64_t begin, int64_t length)
{
    static const int64_t sizes[] = {[FO_FLOAT32] = 4, [FO_FLOAT64] = 8, [FO_FLOAT16] = 2, [FO_BFLOAT16] = 2};
    const int64_t size = sizes[array->grad_dtype];
    memset((char *)grad + begin * size, 0, (size_t)(length * size));
}

/* Clip the gradient, then add the gradients of the L2 and L1 terms. */
static const REAL *NAME(regularized_grad)(REAL *restrict scratch, const REAL *g, const REAL *restrict p,
                                          const fo_array *array, int64_t length, const fo_hyper *hyper)
{
    g = NAME(clipped_grad)(scratch, g, array, length, hyper);
    if (hyper->l2 != 0)
        g = NAME(add_l2)(scratch, g, p, length, (REAL)hyper->l2);
    if (hyper->l1 != 0)
        g = NAME(add_l1)(scratch, g, p, length, (REAL)hyper->l1);
    return g;
}

#define RULE(name) NAME(name##_slots),
static const int NAME(rule_slots)[] = {FO_RULES(RULE)};
#undef RULE

static NAME(rule_loop) * NAME(loop_of)(const fo_hyper *hyper)
{
    return hyper->own ? (NAME(rule_loop) *)hyper->own->loops[REAL_DTYPE] : NAME(rule_loops)[hyper->rule];
}

static int NAME(slot_count)(const fo_hyper *hyper)
{
    return hyper->own ? (int)hyper->own->slot_count : NAME(rule_slots)[hyper->rule];
}

static void NAME(cautious_rule)(REAL *restrict p, const REAL *restrict g, void *const *slots, int64_t first_slot,
                                int64_t length, const fo_hyper *hyper)
{
    REAL before[FO_BLOCK];
    memcpy(before, p, (size_t)length * sizeof(REAL));
    NAME(loop_of)(hyper)(p, g, slots, first_slot, length, (REAL)hyper->decay, hyper->scalars);
    NAME(decay_cautiously)(p, before, length, (REAL)hyper->cautious);
}

/* Update the block that begins at `begin`. `p` points to the block itself; in each slot it begins at `first_slot`. */
static void NAME(update_block)(const fo_array *array, REAL *restrict p, void *const *slots, int64_t first_slot,
                               const void *grad, int64_t begin, int64_t length, const fo_hyper *hyper)
{
    REAL scratch[FO_BLOCK];
    const REAL *g = NAME(scaled_grad)(scratch, array, grad, begin, length, hyper);
    g = NAME(regularized_grad)(scratch, g, p, array, length, hyper);
    if ((REAL)hyper->cautious != 0)
        NAME(cautious_rule)(p, g, slots, first_slot, length, hyper);
    else
        NAME(loop_of)(hyper)(p, g, slots, first_slot, length, (REAL)hyper->decay, hyper->scalars);
    if (hyper->flush & FO_FLUSH_SLOTS)
        for (int k = 0; k < NAME(slot_count)(hyper); k++)
            NAME(flush)((REAL *)slots[k] + first_slot, length);
    if ((REAL)hyper->threshold != 0)
        NAME(soft_threshold)(p, length, (REAL)hyper->threshold);
}

static void NAME(clear_block)(const fo_array *array, void *grad, int64_t begin, int64_t length, const fo_hyper *hyper)
{
    if (hyper->mean != 0)
        memset((REAL *)array->accumulated + begin, 0, (size_t)length * sizeof(REAL));
    if (hyper->zero_grads)
        NAME(clear_grad)(array, grad, begin, length);
}

/* Move a block of the new parameter into its bounds. */
static void NAME(bound_block)(const fo_array *array, REAL *restrict p, int64_t begin, int64_t length,
                              const fo_hyper *hyper)
{
    const REAL lower = (REAL)hyper->lower, upper = (REAL)hyper->upper;
    const int has_numbers = lower > -(REAL)INFINITY || upper < (REAL)INFINITY;
    if (array->lower)
        NAME(bound_below)(p, (const REAL *)array->lower + begin, length);
    if (array->upper)
        NAME(bound_above)(p, (const REAL *)array->upper + begin, length);
    if (has_numbers)
        NAME(bound)(p, length, lower, upper);
#if STORED
    /* The memory has the parameter as it was before. */
    if (array->param_dtype != REAL_DTYPE && (array->lower || array->upper || has_numbers))
        store_block(array->param, NULL, array->param_dtype, p, fo_dither_key(hyper->dither, array, FO_MAX_SLOTS), begin,
                    length);
#endif
}

static void NAME(finish_block)(const fo_array *array, REAL *restrict p, int64_t begin, int64_t length,
                               const fo_hyper *hyper)
{
    NAME(bound_block)(array, p, begin, length, hyper);
    if (array->average)
        NAME(blend_average)((REAL *)array->average + begin, p, length, (REAL)hyper->average_weight);
    if (array->average && hyper->flush & FO_FLUSH_AVERAGE)
        NAME(flush)((REAL *)array->average + begin, length);
#if STORED
    if (array->copy)
        (array->copy_dtype == FO_FLOAT16 ? store_float16 : store_bfloat16)((uint16_t *)array->copy + begin, p, length);
#endif
}

#if STORED
/* Update a block whose memory is of another dtype: converted copies stay in the L1 cache. */
static void NAME(update_stored_block)(const fo_array *array, REAL *restrict p, const void *grad, int64_t begin,
                                      int64_t length, const fo_hyper *hyper)
{
    REAL slot[FO_MAX_SLOTS][FO_SCALE_BLOCK];
    void *slots[FO_MAX_SLOTS] = {0};
    const int count = NAME(slot_count)(hyper);
    for (int k = 0; k < count; k++) {
        slots[k] = (REAL *)array->slots[k] + begin;
        if (array->slot_dtypes[k] != REAL_DTYPE) {
            slots[k] = slot[k];
            load_block(slot[k], array->slots[k], array->scales[k], array->slot_dtypes[k], begin, length);
        }
    }
    NAME(update_block)(array, p, slots, 0, grad, begin, length, hyper);
    /* Find all scales first: the largest element of a block takes a while, and the searches overlap. */
    for (int k = 0; k < count; k++)
        if (array->scales[k])
            ((float *)array->scales[k])[begin / FO_SCALE_BLOCK] = scale_of(slot[k], length);
    for (int k = 0; k < count; k++)
        if (array->slot_dtypes[k] != REAL_DTYPE)
            store_block(array->slots[k], array->scales[k], array->slot_dtypes[k], slot[k],
                        fo_dither_key(hyper->dither, array, k), begin, length);
    if (array->param_dtype != REAL_DTYPE)
        store_block(array->param, NULL, array->param_dtype, p, fo_dither_key(hyper->dither, array, FO_MAX_SLOTS), begin,
                    length);
}
#endif

static void NAME(step_chunk)(const fo_array *array, void *grad, int64_t begin, int64_t end, const fo_hyper *hyper)
{
    REAL scratch[FO_BLOCK];
    /* Arrays stored in other dtypes use shorter blocks: the core begins to read the next one while it computes. */
    const int64_t block = array->is_stored ? FO_SCALE_BLOCK : FO_BLOCK;
    for (int64_t i = begin; i < end; i += block) {
        const int64_t length = end - i < block ? end - i : block;
        REAL *p = NAME(param_block)(scratch, array, i, length);
#if STORED
        if (array->is_stored && hyper->stages & FO_UPDATE)
            NAME(update_stored_block)(array, p, grad, i, length, hyper);
        else if (hyper->stages & FO_UPDATE)
#else
        if (hyper->stages & FO_UPDATE)
#endif
            NAME(update_block)(array, p, array->slots, i, grad, i, length, hyper);
        if (hyper->stages & FO_CLEAR)
            NAME(clear_block)(array, grad, i, length, hyper);
        if (hyper->stages & FO_FINISH)
            NAME(finish_block)(array, p, i, length, hyper);
    }
}

static void NAME(accumulate_chunk)(const fo_array *array, void *grad, int64_t begin, int64_t end, const fo_hyper *hyper)
{
    REAL scratch[FO_BLOCK];
    for (int64_t block = begin; block < end; block += FO_BLOCK) {
        const int64_t length = end - block < FO_BLOCK ? end - block : FO_BLOCK;
        REAL *accumulated = (REAL *)array->accumulated + block;
        const REAL *g = NAME(scaled_grad)(scratch, array, grad, block, length, hyper);
        FO_SIMD
        for (int64_t i = 0; i < length; i++)
            accumulated[i] = accumulated[i] + g[i];
        if (hyper->zero_grads)
            NAME(clear_grad)(array, grad, block, length);
    }
}

static int64_t NAME(nonfinite)(const REAL *g, int64_t length)
{
    int32_t count = 0;
    FO_SIMD_REDUCTION(+ : count)
    for (int64_t i = 0; i < length; i++)
        count += g[i] - g[i] == 0 ? 0 : 1;
    return count;
}

static const REAL *NAME(distance)(REAL *restrict scratch, const REAL *restrict slot, const REAL *restrict p,
                                  int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        scratch[i] = slot[i] - p[i];
    return scratch;
}

static const REAL *NAME(signs)(REAL *restrict scratch, const REAL *restrict slot, int64_t length)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        scratch[i] = SIGN(slot[i]);
    return scratch;
}

/* Return a block of a source. `p` is the parameter, and unused for FO_CLIPPED_GRAD. Unless `nonfinite` is NULL, count
   the elements of the gradient that are infinite or NaN. */
static const REAL *NAME(block_of)(REAL *restrict scratch, const fo_array *array, const REAL *p, const void *grad,
                                  int64_t begin, int64_t length, const fo_hyper *hyper, int32_t source,
                                  int64_t *nonfinite)
{
    if (source >= FO_SIGNS)
        return NAME(signs)(scratch, (const REAL *)array->slots[source - FO_SIGNS] + begin, length);
    if (source >= FO_DISTANCE)
        return NAME(distance)(scratch, (const REAL *)array->slots[source - FO_DISTANCE] + begin, p, length);
    if (source >= 0)
        return (const REAL *)array->slots[source] + begin;
    if (source == FO_PARAM)
        return p;
    const REAL *g = NAME(scaled_grad)(scratch, array, grad, begin, length, hyper);
    if (nonfinite)
        *nonfinite += NAME(nonfinite)(g, length);
    if (source == FO_CLIPPED_GRAD)
        return NAME(clipped_grad)(scratch, g, array, length, hyper);
    return NAME(regularized_grad)(scratch, g, p, array, length, hyper);
}

/* Sum in FO_LANES running sums, folded in halves. The index of an element alone decides where it is added, so that
   every machine has the same bits. */
static fo_reading NAME(sum_products_chunk)(const fo_array *array, const void *grad, int64_t begin, int64_t end,
                                           const fo_hyper *hyper, int32_t left, int32_t right, int32_t count_nonfinite)
{
    REAL left_scratch[FO_BLOCK], right_scratch[FO_BLOCK], param_scratch[FO_BLOCK];
    const int needs_param = left != FO_CLIPPED_GRAD || right != FO_CLIPPED_GRAD;
    double lanes[FO_LANES] = {0};
    int64_t nonfinite = 0;
    for (int64_t block = begin; block < end; block += FO_BLOCK) {
        const int64_t length = end - block < FO_BLOCK ? end - block : FO_BLOCK;
        const REAL *p = needs_param ? NAME(param_block)(param_scratch, array, block, length) : NULL;
        const REAL *a = NAME(block_of)(left_scratch, array, p, grad, block, length, hyper, left,
                                       count_nonfinite ? &nonfinite : NULL);
        const REAL *b = a;
        if (right != left)
            b = NAME(block_of)(right_scratch, array, p, grad, block, length, hyper, right, NULL);
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
    return (fo_reading){lanes[0], nonfinite};
}

#include "axis_sums_template.h"
#include "coordinates_template.h"
#include "history_template.h"

#undef MAXIMUM
#undef MINIMUM
#undef SIGN
#undef WHERE
#undef STORED
#undef REAL
#undef REAL_DTYPE
#undef SQRT
#undef ABSOLUTE
#undef SMALLEST
#undef LOAD
#undef NAME
#undef SCALARS
