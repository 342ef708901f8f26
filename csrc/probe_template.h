/* The probe of probe.c for one compute dtype: a step of rmsprop, which has products, sums, a quotient and a root.

   This template expects:
     REAL        float or double
     REAL_DTYPE  its fo_dtype
     SQRT(x)     the square root in that type
     SMALLEST    the smallest normal number of that type
     NAME(x)     x with a suffix for this type
   It undefines them at its end. */

/* Compute the step one operation at a time: writing to a volatile variable rounds. */
static void NAME(step_by_step)(REAL *restrict p, const REAL *restrict g, REAL *restrict v)
{
    for (int i = 0; i < LENGTH; i++) {
        volatile REAL x = (REAL)one_minus_alpha * g[i], y = (REAL)alpha * v[i];
        x = x * g[i];
        x = y + x;
        v[i] = x;
        x = x + (REAL)eps_root;
        x = SQRT(x);
        x = x + (REAL)eps;
        x = g[i] / x;
        x = (REAL)lr * x;
        y = p[i] * (REAL)decay;
        y = y - x;
        p[i] = y;
    }
}

static int NAME(keeps_bits)(const fo_kernels *kernels)
{
    REAL g[LENGTH], p[LENGTH], v[LENGTH], expected_p[LENGTH], expected_v[LENGTH];
    for (int i = 0; i < LENGTH; i++) {
        g[i] = (REAL)(5 * i - 80) / 13;
        expected_p[i] = p[i] = (REAL)(3 * i - 50) / 7;
        expected_v[i] = v[i] = (REAL)(i + 1) / 11;
    }
    g[0] = 0;
    expected_p[0] = p[0] = SMALLEST; /* its product with `decay` is denormal */
    const fo_array array = {
        .param = p, .slots = {v}, .length = LENGTH, .array_clip = 1, .dtype = REAL_DTYPE, .grad_dtype = REAL_DTYPE};
    const fo_hyper hyper = {.grad_scale = 1,
                            .clip_value = INFINITY,
                            .global_clip = 1,
                            .decay = decay,
                            .scalars = {alpha, one_minus_alpha, lr, eps, eps_root},
                            .stages = FO_UPDATE,
                            .rule = RULE_rmsprop};
    kernels[REAL_DTYPE].step_chunk(&array, g, 0, LENGTH, &hyper);
    NAME(step_by_step)(expected_p, g, expected_v);
    return memcmp(p, expected_p, sizeof p) == 0 && memcmp(v, expected_v, sizeof v) == 0;
}

#undef REAL
#undef REAL_DTYPE
#undef SQRT
#undef SMALLEST
#undef NAME
