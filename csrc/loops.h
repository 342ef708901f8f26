/* The loop around a rule: LOOPn(name) for a rule of n slots. rules.h uses it after each rule, so that the compiler's
   vectorisation report names the line of the rule. The macros of rules.h must be defined where it is used. */

#define LOOP(name, slot_pointers, call)                                                                        \
    static void NAME(name##_loop)(REAL *restrict p, const REAL *restrict g, void *const *slots, int64_t begin, \
                                  int64_t length, REAL decay, const double *scalars)                           \
    {                                                                                                          \
        SCALARS(name) h;                                                                                       \
        for (size_t k = 0; k < sizeof h / sizeof(REAL); k++)                                                   \
            ((REAL *)&h)[k] = (REAL)scalars[k];                                                                \
        (void)slots, (void)begin;                                                                              \
        slot_pointers                                                                                          \
        FO_SIMD                                                                                                \
        for (int64_t i = 0; i < length; i++) {                                                                 \
            p[i] = p[i] * decay;                                                                               \
            NAME(name) call;                                                                                   \
        }                                                                                                      \
    }

#define SLOT(k) REAL *restrict s##k = (REAL *)slots[k] + begin;

/* Make a rule's number of slots a constant. */
#define SLOTS(name, count) enum { NAME(name##_slots) = count };

#define LOOP0(name) SLOTS(name, 0) LOOP(name, , (p + i, g[i], h))
#define LOOP1(name) SLOTS(name, 1) LOOP(name, SLOT(0), (p + i, g[i], s0 + i, h))
#define LOOP2(name) SLOTS(name, 2) LOOP(name, SLOT(0) SLOT(1), (p + i, g[i], s0 + i, s1 + i, h))
#define LOOP3(name) SLOTS(name, 3) LOOP(name, SLOT(0) SLOT(1) SLOT(2), (p + i, g[i], s0 + i, s1 + i, s2 + i, h))
#define LOOP4(name) \
    SLOTS(name, 4)  \
    LOOP(name, SLOT(0) SLOT(1) SLOT(2) SLOT(3), (p + i, g[i], s0 + i, s1 + i, s2 + i, s3 + i, h))
