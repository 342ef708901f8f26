/* Sparse coding: hand out the rows to the threads, each of which has scratch memory of its own. */
#include "coordinates.h"
#include "isa.h"
#include "parallel.h"

#if FO_HAS_THREADS
#include <stdatomic.h>
#endif

enum {
    MAX_THREADS = 256, /* as in parallel.c */
    SOLVING = 512,     /* as many products of a column take as long as solving for it, as a rule */
    PRODUCTS = 1024    /* so many in each of CODING_ROWS rows take as long as FO_CHUNK elements of a light pass */
};

typedef struct {
    const fo_coding *coding;
    const fo_kernels *kernels;
    void *products; /* NULL: solve the rows; else multiply them */
    char *scratch;
    int64_t scratch_size;
#if FO_HAS_THREADS
    _Atomic int32_t *taken; /* 1 for each part of the scratch memory that is in use */
#endif
} fo_coding_pass;

int64_t fo_coding_scratch(const fo_coding *coding)
{
    const int64_t size = coding->dtype == FO_FLOAT32 ? 4 : 8, stride = coding->stride;
    const int64_t of_lane = 6 * stride * size + CODING_COMPACT * (CODING_COMPACT + 1) * size + 4 * stride * 8;
    const int64_t bytes =
        (2 * stride + CODING_LANES * CODING_JUMP) * 8 + CODING_ROWS * stride * size + CODING_LANES * of_lane;
    return (bytes + 63) / 64 * 64;
}

static void visit_rows(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    const fo_coding_pass *pass = context;
    const fo_coding *coding = pass->coding;
    const int64_t first = chunk * CODING_ROWS;
    const int64_t last = first + CODING_ROWS < coding->count ? first + CODING_ROWS : coding->count;
    int64_t part = 0;
    (void)index, (void)begin, (void)end;
#if FO_HAS_THREADS
    /* There are as many parts as threads, so that one of them is free. */
    while (atomic_exchange(&pass->taken[part], 1) != 0)
        part = (part + 1) % MAX_THREADS;
#endif
    char *scratch = pass->scratch + part * pass->scratch_size;
    if (pass->products) {
        const int64_t size = coding->dtype == FO_FLOAT32 ? 4 : 8;
        char *products = (char *)pass->products + first * coding->stride * size;
        pass->kernels[coding->dtype].multiply_rows(coding, first, last, products, (double *)scratch);
    } else
        pass->kernels[coding->dtype].code_rows(coding, first, last, scratch);
#if FO_HAS_THREADS
    atomic_store(&pass->taken[part], 0);
#endif
}

/* `work` is about how many products each column of a row takes. */
static void for_all_rows(fo_coding_pass *pass, int32_t threads, int64_t work)
{
    const int64_t chunks = (pass->coding->count + CODING_ROWS - 1) / CODING_ROWS;
    const fo_array rows = {.length = chunks * FO_CHUNK};
    const fo_mode before = fo_use_default_mode();
#if FO_HAS_THREADS
    _Atomic int32_t taken[MAX_THREADS];
    for (int32_t i = 0; i < MAX_THREADS; i++)
        atomic_init(&taken[i], i >= threads);
    pass->taken = taken;
#endif
    fo_for_each_chunk(&rows, 1, threads, 1 + work * pass->coding->stride / PRODUCTS, visit_rows, pass);
    fo_restore_mode(before);
}

void fo_code_rows(const fo_coding *coding, int32_t threads, void *scratch)
{
    fo_coding_pass pass = {.coding = coding, .kernels = fo_kernels_in_use(), .scratch = scratch};
    pass.scratch_size = fo_coding_scratch(coding);
    for_all_rows(&pass, threads, coding->features + SOLVING);
}

void fo_multiply_rows(const fo_coding *coding, int32_t threads, void *products, void *scratch)
{
    fo_coding_pass pass = {.coding = coding, .kernels = fo_kernels_in_use(), .products = products, .scratch = scratch};
    pass.scratch_size = fo_coding_scratch(coding);
    for_all_rows(&pass, threads, coding->features);
}
