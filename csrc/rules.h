/* Made from fastopt/arithmetic/rules.py by csrc/tools/make_rules.py: change that file, then run the tool.

   A rule is a struct of scalars, a function of one element, and LOOPn(name), which defines the loop over a block for a
   rule of n slots. step.c includes this file without REAL, for FO_RULES alone.

   This template expects:
     REAL         float or double
     SQRT(x)      the square root in that type
     ABSOLUTE(x)  the magnitude in that type
     NAME(x)      x with a suffix for this type
     SCALARS(x)   the name of the struct of rule x's scalars
   and MAXIMUM, MINIMUM, SIGN and WHERE of pipeline_template.h. These evaluate an argument more than once. */

/* RULE(name): every rule that can be asked for. */
#define FO_RULES(RULE)              \
    RULE(sgd)                       \
    RULE(momentum)                  \
    RULE(nesterov)                  \
    RULE(adagrad)                   \
    RULE(rmsprop)                   \
    RULE(rmsprop_momentum)          \
    RULE(rmsprop_centered)          \
    RULE(rmsprop_centered_momentum) \
    RULE(adam)                      \
    RULE(adam_amsgrad)              \
    RULE(adadelta)                  \
    RULE(adamax)                    \
    RULE(nadam)                     \
    RULE(radam)                     \
    RULE(adabelief)                 \
    RULE(yogi)                      \
    RULE(adan)                      \
    RULE(ademamix)                  \
    RULE(lion)                      \
    RULE(signum)                    \
    RULE(rprop)                     \
    RULE(delta_bar_delta)           \
    RULE(delta_bar_delta_last_grad) \
    RULE(asgd)                      \
    RULE(schedule_free_sgd)         \
    RULE(schedule_free_adamw)       \
    RULE(adam_direction)            \
    RULE(descend)                   \
    RULE(adam_amsgrad_corrected)    \
    RULE(ftrl)                      \
    RULE(prodigy)                   \
    RULE(prodigy_descent)

#ifdef REAL

typedef struct {
    REAL lr;
} SCALARS(sgd);

static inline void NAME(sgd)(REAL *p, REAL g, SCALARS(sgd) h)
{
    *p = *p - h.lr * g;
}
LOOP0(sgd)

typedef struct {
    REAL momentum, grad_weight, lr;
} SCALARS(momentum);

static inline void NAME(momentum)(REAL *p, REAL g, REAL *b, SCALARS(momentum) h)
{
    *b = h.momentum * *b + h.grad_weight * g; /* momentum buffer */
    *p = *p - h.lr * *b;
}
LOOP1(momentum)

typedef struct {
    REAL momentum, grad_weight, lookahead_grad_weight, lr;
} SCALARS(nesterov);

static inline void NAME(nesterov)(REAL *p, REAL g, REAL *b, SCALARS(nesterov) h)
{
    *b = h.momentum * *b + h.grad_weight * g;
    *p = *p - h.lr * (h.momentum * *b + h.lookahead_grad_weight * g);
}
LOOP1(nesterov)

typedef struct {
    REAL lr, eps, eps_root;
} SCALARS(adagrad);

static inline void NAME(adagrad)(REAL *p, REAL g, REAL *sum, SCALARS(adagrad) h)
{
    *sum = *sum + g * g; /* sum of squares */
    *p = *p - h.lr * (g / (SQRT(*sum + h.eps_root) + h.eps));
}
LOOP1(adagrad)

typedef struct {
    REAL alpha, one_minus_alpha, lr, eps, eps_root;
} SCALARS(rmsprop);

static inline void NAME(rmsprop)(REAL *p, REAL g, REAL *v, SCALARS(rmsprop) h)
{
    *v = h.alpha * *v + h.one_minus_alpha * g * g; /* mean square */
    *p = *p - h.lr * (g / (SQRT(*v + h.eps_root) + h.eps));
}
LOOP1(rmsprop)

typedef struct {
    REAL alpha, one_minus_alpha, momentum, step_weight, lr, eps, eps_root;
} SCALARS(rmsprop_momentum);

static inline void NAME(rmsprop_momentum)(REAL *p, REAL g, REAL *v, REAL *b, SCALARS(rmsprop_momentum) h)
{
    *v = h.alpha * *v + h.one_minus_alpha * g * g; /* mean square */
    *b = h.momentum * *b + h.step_weight * (g / (SQRT(*v + h.eps_root) + h.eps));
    *p = *p - h.lr * *b;
}
LOOP2(rmsprop_momentum)

typedef struct {
    REAL alpha, one_minus_alpha, least_variance, lr, eps, eps_root;
} SCALARS(rmsprop_centered);

static inline void NAME(rmsprop_centered)(REAL *p, REAL g, REAL *v, REAL *m, SCALARS(rmsprop_centered) h)
{
    *v = h.alpha * *v + h.one_minus_alpha * g * g; /* mean square */
    *m = h.alpha * *m + h.one_minus_alpha * g;     /* mean */
    *p = *p - h.lr * (g / (SQRT(MAXIMUM(*v - *m * *m, h.least_variance) + h.eps_root) + h.eps));
}
LOOP2(rmsprop_centered)

typedef struct {
    REAL alpha, one_minus_alpha, least_variance, momentum, step_weight, lr, eps, eps_root;
} SCALARS(rmsprop_centered_momentum);

static inline void NAME(rmsprop_centered_momentum)(REAL *p, REAL g, REAL *v, REAL *m, REAL *b,
                                                   SCALARS(rmsprop_centered_momentum) h)
{
    *v = h.alpha * *v + h.one_minus_alpha * g * g; /* mean square */
    *m = h.alpha * *m + h.one_minus_alpha * g;     /* mean */
    *b = h.momentum * *b + h.step_weight * (g / (SQRT(MAXIMUM(*v - *m * *m, h.least_variance) + h.eps_root) + h.eps));
    *p = *p - h.lr * *b;
}
LOOP3(rmsprop_centered_momentum)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, eps, eps_root;
} SCALARS(adam);

static inline void NAME(adam)(REAL *p, REAL g, REAL *m, REAL *v, SCALARS(adam) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;     /* first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g; /* second moment */
    *p = *p - h.step_size * (*m / (SQRT(*v + h.eps_root) + h.eps));
}
LOOP2(adam)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, eps, eps_root;
} SCALARS(adam_amsgrad);

static inline void NAME(adam_amsgrad)(REAL *p, REAL g, REAL *m, REAL *v, REAL *v_max, SCALARS(adam_amsgrad) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;     /* first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g; /* second moment */
    *v_max = MAXIMUM(*v_max, *v);
    *p = *p - h.step_size * (*m / (SQRT(*v_max + h.eps_root) + h.eps));
}
LOOP3(adam_amsgrad)

typedef struct {
    REAL rho, one_minus_rho, lr, eps;
} SCALARS(adadelta);

static inline void NAME(adadelta)(REAL *p, REAL g, REAL *v, REAL *u, SCALARS(adadelta) h)
{
    *v = h.rho * *v + h.one_minus_rho * g * g; /* mean square of the gradient */
    const REAL d = SQRT(*u + h.eps) / SQRT(*v + h.eps) * g;
    *u = h.rho * *u + h.one_minus_rho * d * d; /* mean square of the update */
    *p = *p - h.lr * d;
}
LOOP2(adadelta)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, step_size, eps;
} SCALARS(adamax);

static inline void NAME(adamax)(REAL *p, REAL g, REAL *m, REAL *u, SCALARS(adamax) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;       /* first moment */
    *u = MAXIMUM(h.beta2 * *u, ABSOLUTE(g) + h.eps); /* infinity norm */
    *p = *p - h.step_size * (*m / *u);
}
LOOP2(adamax)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, grad_step_size, step_size, eps;
} SCALARS(nadam);

static inline void NAME(nadam)(REAL *p, REAL g, REAL *m, REAL *v, SCALARS(nadam) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;     /* first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g; /* second moment */
    *p = *p - (h.grad_step_size * g + h.step_size * *m) / (SQRT(*v) + h.eps);
}
LOOP2(nadam)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, greatest_root, eps;
} SCALARS(radam);

static inline void NAME(radam)(REAL *p, REAL g, REAL *m, REAL *v, SCALARS(radam) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;     /* first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g; /* second moment */
    *p = *p - h.step_size * (*m / (MINIMUM(SQRT(*v), h.greatest_root) + h.eps));
}
LOOP2(radam)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, eps, eps_in_s;
} SCALARS(adabelief);

static inline void NAME(adabelief)(REAL *p, REAL g, REAL *m, REAL *s, SCALARS(adabelief) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g; /* first moment */
    const REAL error = g - *m;
    *s = h.beta2 * *s + h.one_minus_beta2 * error * error + h.eps_in_s; /* variance around the first moment */
    *p = *p - h.step_size * (*m / (SQRT(*s) + h.eps));
}
LOOP2(adabelief)

typedef struct {
    REAL beta1, one_minus_beta1, one_minus_beta2, step_size, eps;
} SCALARS(yogi);

static inline void NAME(yogi)(REAL *p, REAL g, REAL *m, REAL *v, SCALARS(yogi) h)
{
    const REAL square = g * g;
    *m = h.beta1 * *m + h.one_minus_beta1 * g;                /* first moment */
    *v = *v - h.one_minus_beta2 * SIGN(*v - square) * square; /* second moment */
    *p = *p - h.step_size * (*m / (SQRT(*v) + h.eps));
}
LOOP2(yogi)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3, has_last, change_weight, step_size,
        change_step_size, eps, eps_root;
} SCALARS(adan);

static inline void NAME(adan)(REAL *p, REAL g, REAL *m, REAL *v, REAL *n, REAL *last, SCALARS(adan) h)
{
    const REAL change = h.has_last * (g - *last);
    const REAL ahead = g + h.change_weight * change;
    *m = h.beta1 * *m + h.one_minus_beta1 * g;             /* first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * change;        /* moment of the gradient's change */
    *n = h.beta3 * *n + h.one_minus_beta3 * ahead * ahead; /* second moment */
    *last = g;
    *p = *p - (h.step_size * *m + h.change_step_size * *v) / (SQRT(*n + h.eps_root) + h.eps);
}
LOOP4(adan)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3, step_size, slow_step_size, eps,
        eps_root;
} SCALARS(ademamix);

static inline void NAME(ademamix)(REAL *p, REAL g, REAL *m, REAL *m_slow, REAL *v, SCALARS(ademamix) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;           /* fast first moment */
    *m_slow = h.beta3 * *m_slow + h.one_minus_beta3 * g; /* slow first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g;       /* second moment */
    *p = *p - (h.step_size * *m + h.slow_step_size * *m_slow) / (SQRT(*v + h.eps_root) + h.eps);
}
LOOP3(ademamix)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, lr;
} SCALARS(lion);

static inline void NAME(lion)(REAL *p, REAL g, REAL *m, SCALARS(lion) h)
{
    const REAL u = h.beta1 * *m + h.one_minus_beta1 * g;
    *p = *p - h.lr * SIGN(u);
    *m = h.beta2 * *m + h.one_minus_beta2 * g; /* momentum */
}
LOOP1(lion)

typedef struct {
    REAL momentum, grad_weight, lr;
} SCALARS(signum);

static inline void NAME(signum)(REAL *p, REAL g, REAL *b, SCALARS(signum) h)
{
    *b = h.momentum * *b + h.grad_weight * g;
    *p = *p - h.lr * SIGN(*b);
}
LOOP1(signum)

typedef struct {
    REAL zero, one, eta_minus, eta_plus, least_step, greatest_step;
} SCALARS(rprop);

static inline void NAME(rprop)(REAL *p, REAL g, REAL *last, REAL *step_size, SCALARS(rprop) h)
{
    const REAL product = g * *last;
    const REAL growth = WHERE(product > h.zero, h.eta_plus, WHERE(product < h.zero, h.eta_minus, h.one));
    const REAL grown = MAXIMUM(*step_size * growth, h.least_step);
    *step_size = MINIMUM(grown, h.greatest_step);
    *last = WHERE(product < h.zero, h.zero, g);
    *p = *p - SIGN(*last) * *step_size;
}
LOOP2(rprop)

typedef struct {
    REAL zero, one, increase, decrease, least_gain, greatest_gain, momentum, lr;
} SCALARS(delta_bar_delta);

static inline void NAME(delta_bar_delta)(REAL *p, REAL g, REAL *gain, REAL *b, SCALARS(delta_bar_delta) h)
{
    const REAL agreement = SIGN(g) * *b;
    const REAL factor = WHERE(agreement > h.zero, h.one, h.decrease);
    const REAL increase = WHERE(agreement > h.zero, h.increase, h.zero);
    const REAL bounded = MAXIMUM(*gain * factor + increase, h.least_gain);
    *gain = MINIMUM(bounded, h.greatest_gain);
    *b = h.momentum * *b + *gain * g;
    *p = *p - h.lr * *b;
}
LOOP2(delta_bar_delta)

typedef struct {
    REAL zero, one, increase, decrease, least_gain, greatest_gain, momentum, lr;
} SCALARS(delta_bar_delta_last_grad);

static inline void NAME(delta_bar_delta_last_grad)(REAL *p, REAL g, REAL *gain, REAL *b, REAL *last,
                                                   SCALARS(delta_bar_delta_last_grad) h)
{
    const REAL agreement = SIGN(g) * *last;
    const REAL factor = WHERE(agreement > h.zero, h.one, h.decrease);
    const REAL increase = WHERE(agreement > h.zero, h.increase, h.zero);
    const REAL bounded = MAXIMUM(*gain * factor + increase, h.least_gain);
    *gain = MINIMUM(bounded, h.greatest_gain);
    *b = h.momentum * *b + *gain * g;
    *p = *p - h.lr * *b;
    *last = g;
}
LOOP3(delta_bar_delta_last_grad)

typedef struct {
    REAL shrink, eta, average_keep, average_weight;
} SCALARS(asgd);

static inline void NAME(asgd)(REAL *p, REAL g, REAL *ax, SCALARS(asgd) h)
{
    *p = h.shrink * *p - h.eta * g;
    *ax = h.average_keep * *ax + h.average_weight * *p; /* average of the parameter */
}
LOOP1(asgd)

typedef struct {
    REAL keep, average_weight, step_size, lr;
} SCALARS(schedule_free_sgd);

static inline void NAME(schedule_free_sgd)(REAL *p, REAL g, REAL *z, SCALARS(schedule_free_sgd) h)
{
    *p = h.keep * *p + h.average_weight * *z - h.step_size * g;
    *z = *z - h.lr * g;
}
LOOP1(schedule_free_sgd)

typedef struct {
    REAL beta2, one_minus_beta2, grad_weight, decay, keep, average_weight, step_size, lr, eps;
} SCALARS(schedule_free_adamw);

static inline void NAME(schedule_free_adamw)(REAL *p, REAL g, REAL *z, REAL *v, SCALARS(schedule_free_adamw) h)
{
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g; /* second moment */
    const REAL d = h.grad_weight * (g / (SQRT(*v) + h.eps)) + h.decay * *p;
    *p = h.keep * *p + h.average_weight * *z - h.step_size * d;
    *z = *z - h.lr * d;
}
LOOP2(schedule_free_adamw)

/* The rules below are phases of the optimizers that need numbers of whole arrays. */

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, decay, eps, eps_root;
} SCALARS(adam_direction);

static inline void NAME(adam_direction)(REAL *p, REAL g, REAL *u, REAL *m, REAL *v, SCALARS(adam_direction) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;     /* first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g; /* second moment */
    *u = h.step_size * (*m / (SQRT(*v + h.eps_root) + h.eps)) + h.decay * *p;
}
LOOP3(adam_direction)

typedef struct {
    REAL step_size;
} SCALARS(descend);

static inline void NAME(descend)(REAL *p, REAL g, REAL *u, SCALARS(descend) h)
{
    (void)g;
    *p = *p - h.step_size * *u;
}
LOOP1(descend)

/* These came later: the numbers of the rules above are in the hashes of csrc/tools/bits.txt. */

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, correction, step_size, eps, eps_root;
} SCALARS(adam_amsgrad_corrected);

static inline void NAME(adam_amsgrad_corrected)(REAL *p, REAL g, REAL *m, REAL *v, REAL *v_hat_max,
                                                SCALARS(adam_amsgrad_corrected) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;     /* first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g; /* second moment */
    *v_hat_max = MAXIMUM(*v_hat_max, h.correction * *v);
    *p = *p - h.step_size * (*m / (SQRT(*v_hat_max + h.eps_root) + h.eps));
}
LOOP3(adam_amsgrad_corrected)

typedef struct {
    REAL zero, one, lr, beta, l1, minus_l1, twice_l2, twice_shrinkage;
} SCALARS(ftrl);

static inline void NAME(ftrl)(REAL *p, REAL g, REAL *n, REAL *z, SCALARS(ftrl) h)
{
    const REAL last_root = SQRT(*n);
    *n = *n + g * g; /* sum of squares */
    const REAL root = SQRT(*n);
    *z = *z + (g + h.twice_shrinkage * *p - (root - last_root) / h.lr * *p); /* the linear term of the sum of losses */
    /* Where p becomes 0 the divisor may be 0 too. A quotient inside of where would keep GCC from vectorising. */
    const REAL one_where_0 = WHERE(ABSOLUTE(*z) > h.l1, h.zero, h.one);
    *p = (MINIMUM(MAXIMUM(*z, h.minus_l1), h.l1) - *z) / ((h.beta + root) / h.lr + h.twice_l2 + one_where_0);
}
LOOP2(ftrl)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, beta3, d, s_weight;
} SCALARS(prodigy);

static inline void NAME(prodigy)(REAL *p, REAL g, REAL *m, REAL *v, REAL *s, SCALARS(prodigy) h)
{
    (void)p;
    const REAL dg = h.d * g;
    *m = h.beta1 * *m + h.one_minus_beta1 * dg;      /* first moment */
    *v = h.beta2 * *v + h.one_minus_beta2 * dg * dg; /* second moment */
    *s = h.beta3 * *s + h.s_weight * g;              /* weighted sum of the gradients */
}
LOOP3(prodigy)

typedef struct {
    REAL step_size, eps;
} SCALARS(prodigy_descent);

static inline void NAME(prodigy_descent)(REAL *p, REAL g, REAL *m, REAL *v, SCALARS(prodigy_descent) h)
{
    (void)g;
    *p = *p - h.step_size * (*m / (SQRT(*v) + h.eps));
}
LOOP2(prodigy_descent)

#endif
