/* Every rule, once. fastopt/rules.py states the same arithmetic in the same order, under the same names.

   A rule is a struct of scalars, a function of one element, and LOOPn(name) with n its number of slots, which stamps the
   loop over a block. Template parameters, set by kernels.h: REAL, SQRT(x), NAME(x), SCALARS(x). */

/* RULE(name): every rule that can be asked for. */
#define FO_RULES(RULE)          \
    RULE(sgd)                   \
    RULE(momentum)              \
    RULE(nesterov)              \
    RULE(adagrad)               \
    RULE(rmsprop)               \
    RULE(rmsprop_momentum)      \
    RULE(rmsprop_centered)      \
    RULE(rmsprop_centered_momentum) \
    RULE(adam)                  \
    RULE(adam_amsgrad)

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
    *b = h.momentum * *b + h.grad_weight * g;
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
    *sum = *sum + g * g;
    *p = *p - h.lr * (g / (SQRT(*sum + h.eps_root) + h.eps));
}
LOOP1(adagrad)

typedef struct {
    REAL alpha, one_minus_alpha, lr, eps, eps_root;
} SCALARS(rmsprop);

static inline void NAME(rmsprop)(REAL *p, REAL g, REAL *v, SCALARS(rmsprop) h)
{
    *v = h.alpha * *v + h.one_minus_alpha * g * g;
    *p = *p - h.lr * (g / (SQRT(*v + h.eps_root) + h.eps));
}
LOOP1(rmsprop)

typedef struct {
    REAL alpha, one_minus_alpha, momentum, step_weight, lr, eps, eps_root;
} SCALARS(rmsprop_momentum);

static inline void NAME(rmsprop_momentum)(REAL *p, REAL g, REAL *v, REAL *b, SCALARS(rmsprop_momentum) h)
{
    *v = h.alpha * *v + h.one_minus_alpha * g * g;
    *b = h.momentum * *b + h.step_weight * (g / (SQRT(*v + h.eps_root) + h.eps));
    *p = *p - h.lr * *b;
}
LOOP2(rmsprop_momentum)

typedef struct {
    REAL alpha, one_minus_alpha, least_variance, lr, eps, eps_root;
} SCALARS(rmsprop_centered);

static inline void NAME(rmsprop_centered)(REAL *p, REAL g, REAL *v, REAL *m, SCALARS(rmsprop_centered) h)
{
    *v = h.alpha * *v + h.one_minus_alpha * g * g;
    *m = h.alpha * *m + h.one_minus_alpha * g;
    *p = *p - h.lr * (g / (SQRT(MAXIMUM(*v - *m * *m, h.least_variance) + h.eps_root) + h.eps));
}
LOOP2(rmsprop_centered)

typedef struct {
    REAL alpha, one_minus_alpha, least_variance, momentum, step_weight, lr, eps, eps_root;
} SCALARS(rmsprop_centered_momentum);

static inline void NAME(rmsprop_centered_momentum)(REAL *p, REAL g, REAL *v, REAL *m, REAL *b,
                                                   SCALARS(rmsprop_centered_momentum) h)
{
    *v = h.alpha * *v + h.one_minus_alpha * g * g;
    *m = h.alpha * *m + h.one_minus_alpha * g;
    *b = h.momentum * *b + h.step_weight * (g / (SQRT(MAXIMUM(*v - *m * *m, h.least_variance) + h.eps_root) + h.eps));
    *p = *p - h.lr * *b;
}
LOOP3(rmsprop_centered_momentum)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, eps, eps_root;
} SCALARS(adam);

static inline void NAME(adam)(REAL *p, REAL g, REAL *m, REAL *v, SCALARS(adam) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g;
    *p = *p - h.step_size * (*m / (SQRT(*v + h.eps_root) + h.eps));
}
LOOP2(adam)

typedef struct {
    REAL beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, eps, eps_root;
} SCALARS(adam_amsgrad);

static inline void NAME(adam_amsgrad)(REAL *p, REAL g, REAL *m, REAL *v, REAL *v_max, SCALARS(adam_amsgrad) h)
{
    *m = h.beta1 * *m + h.one_minus_beta1 * g;
    *v = h.beta2 * *v + h.one_minus_beta2 * g * g;
    *v_max = MAXIMUM(*v_max, *v);
    *p = *p - h.step_size * (*m / (SQRT(*v_max + h.eps_root) + h.eps));
}
LOOP3(adam_amsgrad)

#endif
