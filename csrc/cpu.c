/* The instruction sets that this machine has, and the one in use. */
#include "isa.h"

static const struct {
    const char *name;
    const fo_kernels *kernels;
} isas[FO_ISA_COUNT] = {
    [FO_BASELINE] = {"baseline", fo_kernels_baseline},
#if FO_HAS_X86_TARGETS
    [FO_AVX2] = {"avx2", fo_kernels_avx2},
    [FO_AVX512] = {"avx512", fo_kernels_avx512},
#else
    [FO_AVX2] = {"avx2", 0},
    [FO_AVX512] = {"avx512", 0},
#endif
};

static int32_t in_use = FO_BASELINE;

const char *fo_isa_name(int32_t isa)
{
    return isas[isa].name;
}

int32_t fo_isa_found(int32_t isa)
{
    switch (isa) {
    case FO_BASELINE:
        return 1;
#if FO_HAS_X86_TARGETS
    case FO_AVX2:
        return __builtin_cpu_supports("avx2") != 0;
    case FO_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    default:
        return 0;
    }
}

void fo_isa_use(int32_t isa)
{
    in_use = isa;
}

int32_t fo_isa_in_use(void)
{
    return in_use;
}

const fo_kernels *fo_kernels_of(int32_t isa)
{
    return isas[isa].kernels;
}

const fo_kernels *fo_kernels_in_use(void)
{
    return fo_kernels_of(in_use);
}
