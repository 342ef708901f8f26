/* Everything that differs between compilers and machines. */
#ifndef FO_COMPILER_H
#define FO_COMPILER_H

#include <float.h>

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "fastopt promises the same bits everywhere: build without -ffast-math and its parts"
#endif

#if FLT_EVAL_METHOD != 0
#error "fastopt promises the same bits everywhere: FLT_EVAL_METHOD must be 0 (no wider type for float)"
#endif

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define FO_HAS_X86_TARGETS 1
#else
#define FO_HAS_X86_TARGETS 0
#endif

#if (defined(__unix__) || defined(__APPLE__)) && !defined(__STDC_NO_ATOMICS__)
#define FO_HAS_THREADS 1
#else
#define FO_HAS_THREADS 0
#endif

/* Tell the core that it is waiting for another one. */
#if FO_HAS_X86_TARGETS
#define FO_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define FO_PAUSE() __asm__ volatile("yield")
#else
#define FO_PAUSE() ((void)0)
#endif

#define FO_PRAGMA(text) _Pragma(#text)

/* GCC moves 8-byte vectors through MMX registers, which long double uses too. GCC leaves out the emms, so every later
   long double of the process would be NaN. */
#if FO_HAS_X86_TARGETS && !defined(__clang__)
FO_PRAGMA(GCC target("no-mmx"))
#endif

/* The floating-point mode of the calling thread: how it rounds, and whether it keeps denormals. Kernels run in the
   default mode, whatever mode the program has set, so that the bits are the same. On x86-64 they use SSE and AVX alone,
   whose mode is MXCSR. fenv has the mode of the x87 unit too, and takes 0.35 us to save, set and restore both. */
#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
typedef unsigned int fo_mode;
static inline fo_mode fo_use_default_mode(void)
{
    const fo_mode before = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return before;
}
static inline void fo_restore_mode(fo_mode before)
{
    _mm_setcsr(before);
}
#else
#include <fenv.h>
typedef fenv_t fo_mode;
static inline fo_mode fo_use_default_mode(void)
{
    fo_mode before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    return before;
}
static inline void fo_restore_mode(fo_mode before)
{
    fesetenv(&before);
}
#endif

/* MSVC's simd pragma relaxes floating point, so its loops stay plain. */
#if defined(_MSC_VER) && !defined(__clang__)
#define FO_SIMD
#define FO_SIMD_REDUCTION(clause)
#else
#define FO_SIMD FO_PRAGMA(omp simd)
/* For integers only: a reduction may change the order, and floating point has other bits in another order. */
#define FO_SIMD_REDUCTION(clause) FO_PRAGMA(omp simd reduction(clause))
#endif

/* Vectors as a type, in `name`: `count` doubles, at addresses that are multiples of `alignment`. */
#if defined(__GNUC__)
#define FO_HAS_VECTORS 1
#define FO_INLINE inline __attribute__((always_inline))
#define FO_VECTOR(name, count, alignment) \
    typedef double name __attribute__((vector_size(8 * (count)), aligned(alignment), may_alias))
/* Read memory into the L2 cache. */
#define FO_PREFETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define FO_HAS_VECTORS 0
#define FO_INLINE inline
#define FO_PREFETCH(address) ((void)0)
#endif

/* The targets leave out FMA, because a contracted multiply-add has other bits. */
#define FO_AVX2_FEATURES "avx2"
#if defined(__clang__)
#define FO_AVX512_FEATURES "avx512f,avx512bw,avx512dq,avx512vl"
#define FO_TARGET_BEGIN(features) \
    FO_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FO_TARGET_END FO_PRAGMA(clang attribute pop)
#else
#define FO_AVX512_FEATURES "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#define FO_TARGET_BEGIN(features) FO_PRAGMA(GCC push_options) FO_PRAGMA(GCC target(features))
#define FO_TARGET_END FO_PRAGMA(GCC pop_options)
#endif

#endif
