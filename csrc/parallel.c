/* The one place with threads. Each thread begins with a share of the chunks that is the same in every step, which may
   still be in its core's cache; then it takes what others have not come to, because the cores of a shared machine do not
   run at one speed. Which thread takes a chunk changes no bit. */
#include "parallel.h"

#include <stddef.h>

#ifdef _OPENMP
#include <omp.h>
#if !defined(_WIN32)
#include <pthread.h>
#endif
#endif

enum {
    SERIAL_BELOW = 16384,   /* elements: under this a second thread costs more than it brings (measured) */
    BATCHES_A_THREAD = 16,  /* fewer: cores wait for the slowest; more: small arrays pay for the handing out */
    MAX_THREADS = 256
};

static int64_t chunk_count(int64_t length)
{
    return (length + FO_CHUNK - 1) / FO_CHUNK;
}

static int64_t array_of_chunk(const fo_array *arrays, int64_t count, int64_t chunk)
{
    int64_t low = 0, high = count;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (arrays[middle].first_chunk <= chunk)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void visit_chunks(const fo_array *arrays, int64_t count, int64_t first, int64_t last, fo_visit *visit,
                         const void *context)
{
    int64_t index = array_of_chunk(arrays, count, first);
    for (int64_t chunk = first; chunk < last; chunk++) {
        while (chunk - arrays[index].first_chunk >= chunk_count(arrays[index].length))
            index++;
        const int64_t begin = (chunk - arrays[index].first_chunk) * FO_CHUNK;
        const int64_t end = begin + FO_CHUNK < arrays[index].length ? begin + FO_CHUNK : arrays[index].length;
        visit(context, index, chunk, begin, end);
    }
}

#ifdef _OPENMP

/* The chunks of one thread that nobody has taken yet; alone on its cache line. */
typedef struct {
    int64_t next, end;
    char padding[48];
} fo_share;

static int64_t take(fo_share *share, int64_t batch)
{
    int64_t first;
#pragma omp atomic capture
    {
        first = share->next;
        share->next += batch;
    }
    return first;
}

static int region_was_opened, forked_after_a_region;

#if !defined(_WIN32)
static void in_forked_child(void)
{
    forked_after_a_region = region_was_opened;
}

/* GNU's OpenMP hangs in a forked child whose parent had opened a region: such a child stays on one thread. */
static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

static void watch_forks_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
}
#else
static void watch_forks_once(void) {}
#endif

int32_t fo_openmp(void)
{
    return _OPENMP;
}

int32_t fo_default_threads(void)
{
    return forked_after_a_region ? 1 : omp_get_max_threads();
}

#else

int32_t fo_openmp(void)
{
    return 0;
}

int32_t fo_default_threads(void)
{
    return 1;
}

#endif

void fo_for_each_chunk(const fo_array *arrays, int64_t count, int32_t threads, fo_visit *visit, const void *context)
{
    int64_t elements = 0;
    for (int64_t i = 0; i < count; i++)
        elements += arrays[i].length;
    if (elements == 0)
        return;
    const int64_t chunks = arrays[count - 1].first_chunk + chunk_count(arrays[count - 1].length);
#ifdef _OPENMP
    if (threads == 0)
        threads = omp_get_max_threads();
    if (threads > 1 && elements >= SERIAL_BELOW && !forked_after_a_region) {
        watch_forks_once();
        region_was_opened = 1;
        fo_share shares[MAX_THREADS];
        if (threads > MAX_THREADS)
            threads = MAX_THREADS;
        for (int32_t i = 0; i < threads; i++)
            shares[i] = (fo_share){.next = chunks * i / threads, .end = chunks * (i + 1) / threads};
        const int64_t batch = 1 + chunks / ((int64_t)threads * BATCHES_A_THREAD);
#pragma omp parallel num_threads(threads)
        for (int32_t i = 0; i < threads; i++) {
            fo_share *share = &shares[(omp_get_thread_num() + i) % threads];
            for (int64_t first = take(share, batch); first < share->end; first = take(share, batch))
                visit_chunks(arrays, count, first, first + batch < share->end ? first + batch : share->end, visit,
                             context);
        }
        return;
    }
#else
    (void)threads;
#endif
    visit_chunks(arrays, count, 0, chunks, visit, context);
}
