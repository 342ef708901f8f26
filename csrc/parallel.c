/* The one place with threads: a pool that helps the calling thread with the chunks of a step.

   The caller never waits for a thread that has not begun. It works through all chunks itself. Each pool thread that
   gets a core at that moment joins in. It begins with its own share of the chunks, which is the same in every step and
   may still be in its core's cache. An OpenMP region, by contrast, ends when all its threads have come and gone. If the
   other core is busy, for example with the idle spinning of the BLAS that made the gradients, a small step then takes a
   hundred times as long (`python -m bench --group behind`; its limit is such a region). No bit depends on which thread
   takes a chunk. */
#define _GNU_SOURCE
#include "compiler.h"
#include "parallel.h"

#include <stddef.h>

enum {
    MIN_ELEMENTS_PER_THREAD = 8192, /* of a light pass; with fewer, a thread costs more than it saves (measured) */
    MIN_ELEMENTS_TO_WAKE = 1 << 19, /* with fewer, sleeping threads are left asleep unless steps come back to back */
    BACK_TO_BACK_NS = 120000,       /* at most this long from the end of a step to the next one */
    BATCHES_PER_THREAD = 16,        /* fewer: cores wait for the slowest; more: small arrays pay for the sharing */
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

#if FO_HAS_THREADS

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

/* How often a thread looks for a change before it sleeps: for about 0.1 ms, enough to catch the next step of a tight
   loop. */
enum { SPINS = 6000 };

/* The chunks of one thread's share that no thread has taken yet. The padding keeps shares on separate cache lines. */
typedef struct {
    _Atomic int64_t next;
    int64_t end;
    char padding[48];
} fo_share;

/* The work of one call. It lives on the caller's stack. */
typedef struct {
    const fo_array *arrays;
    int64_t count, batch;
    fo_visit *visit;
    const void *context;
    int32_t threads;
    fo_share shares[MAX_THREADS];
} fo_job;

/* `door` is the number of the job times JOB, plus OPEN while threads may still enter, plus how many are inside. It is
   one word so that a late thread can't enter a job that has ended. */
enum { OPEN = 1 << 16, JOB = 1 << 17 };

static struct {
    _Atomic uint64_t door;
    fo_job *job;
    _Atomic int caller_sleeps;
    _Atomic int32_t started, sleeping;
    int avoided_core;
    _Atomic int64_t last_end;
    pthread_t helpers[MAX_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t opened, left;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};

/* One caller at a time has the pool; any other one works alone meanwhile. */
static pthread_mutex_t pool_in_use = PTHREAD_MUTEX_INITIALIZER;

static int inside(uint64_t door)
{
    return (int)(door % OPEN);
}

static void work(fo_job *job, int32_t thread)
{
    for (int32_t i = 0; i < job->threads; i++) {
        fo_share *share = &job->shares[(thread + i) % job->threads];
        for (;;) {
            const int64_t first = atomic_fetch_add(&share->next, job->batch);
            if (first >= share->end)
                break;
            const int64_t last = first + job->batch < share->end ? first + job->batch : share->end;
            visit_chunks(job->arrays, job->count, first, last, job->visit, job->context);
        }
    }
}

static int is_new(uint64_t door, uint64_t seen)
{
    return (door & OPEN) != 0 && door / JOB != seen;
}

/* Wait for a job after the one last seen; return its number. A thread that woke too late for a step waits for the next
   one before sleeping again. */
static uint64_t next_job(uint64_t seen)
{
    for (;;) {
        for (int spin = 0; spin < SPINS; spin++) {
            if (is_new(atomic_load(&pool.door), seen))
                return atomic_load(&pool.door) / JOB;
            FO_PAUSE();
        }
        pthread_mutex_lock(&pool.lock);
        pool.sleeping++;
        if (!is_new(atomic_load(&pool.door), seen))
            pthread_cond_wait(&pool.opened, &pool.lock);
        pool.sleeping--;
        pthread_mutex_unlock(&pool.lock);
    }
}

static int enter(uint64_t number)
{
    uint64_t door = atomic_load(&pool.door);
    while ((door & OPEN) != 0 && door / JOB == number)
        if (atomic_compare_exchange_weak(&pool.door, &door, door + 1))
            return 1;
    return 0;
}

static void leave(void)
{
    const uint64_t door = atomic_fetch_sub(&pool.door, 1) - 1;
    if (inside(door) == 0 && atomic_load(&pool.caller_sleeps)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_signal(&pool.left);
        pthread_mutex_unlock(&pool.lock);
    }
}

static void *helper(void *argument)
{
    const int32_t thread = (int32_t)(intptr_t)argument;
    uint64_t seen = 0;
    fo_use_default_mode();
    for (;;) {
        seen = next_job(seen);
        if (enter(seen)) {
            if (thread < pool.job->threads)
                work(pool.job, thread);
            leave();
        }
    }
    return NULL;
}

static void in_forked_child(void)
{
    /* The threads stayed in the parent. */
    atomic_store(&pool.door, 0);
    atomic_store(&pool.caller_sleeps, 0);
    pool.started = pool.sleeping = 0;
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.opened, NULL);
    pthread_cond_init(&pool.left, NULL);
    pthread_mutex_init(&pool_in_use, NULL);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, in_forked_child);
}

/* Start threads until there are `wanted` helpers, or as many as the system allows. */
static void start_helpers(int32_t wanted)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
    while (pool.started < wanted) {
        pthread_t *thread = &pool.helpers[pool.started];
        if (pthread_create(thread, NULL, helper, (void *)(intptr_t)(pool.started + 1)) != 0)
            break;
        pthread_detach(*thread);
        pool.started++;
        pool.avoided_core = -1;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Linux likes to wake a thread on the core of the thread that wakes it. There it waits for milliseconds until it is
   moved: as long as hundreds of small steps. */
#ifdef __linux__
static void keep_off_this_core(void)
{
    const int core = sched_getcpu();
    cpu_set_t allowed;
    if (core == pool.avoided_core || core < 0 || pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed) != 0)
        return;
    CPU_CLR(core, &allowed);
    if (CPU_COUNT(&allowed) == 0)
        return;
    for (int32_t i = 0; i < pool.started; i++)
        pthread_setaffinity_np(pool.helpers[i], sizeof allowed, &allowed);
    pool.avoided_core = core;
}
#else
static void keep_off_this_core(void) {}
#endif

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Waking a thread can cost the caller its core for longer than a small step takes. Spinning threads join without it. */
static int is_worth_waking(int64_t worth)
{
    return worth >= MIN_ELEMENTS_TO_WAKE || nanoseconds() - pool.last_end < BACK_TO_BACK_NS;
}

/* Return whether no helper would come to an open door: all that are wanted have started, and all of these sleep. */
static int all_sleep(int32_t wanted)
{
    const int32_t started = pool.started;
    return started >= wanted && pool.sleeping == started;
}

static void open_door(fo_job *job, int wake)
{
    pthread_mutex_lock(&pool.lock);
    pool.job = job;
    atomic_store(&pool.door, (atomic_load(&pool.door) / JOB + 1) * JOB + OPEN);
    if (wake && pool.sleeping > 0) {
        keep_off_this_core();
        pthread_cond_broadcast(&pool.opened);
    }
    pthread_mutex_unlock(&pool.lock);
}

static void close_door(void)
{
    uint64_t door = atomic_fetch_and(&pool.door, ~(uint64_t)OPEN);
    for (int spin = 0; spin < SPINS; spin++) {
        if (inside(door) == 0)
            return;
        FO_PAUSE();
        door = atomic_load(&pool.door);
    }
    /* A thread that is still inside may be waiting for this very core. */
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.caller_sleeps, 1);
    while (inside(atomic_load(&pool.door)) != 0)
        pthread_cond_wait(&pool.left, &pool.lock);
    atomic_store(&pool.caller_sleeps, 0);
    pthread_mutex_unlock(&pool.lock);
}

static void share_out(fo_job *job, int64_t chunks)
{
    job->batch = 1 + chunks / ((int64_t)job->threads * BATCHES_PER_THREAD);
    for (int32_t i = 0; i < job->threads; i++) {
        atomic_init(&job->shares[i].next, chunks * i / job->threads);
        job->shares[i].end = chunks * (i + 1) / job->threads;
    }
}

/* Visit all chunks with the helpers that come. The caller must have the pool. */
static void visit_together(const fo_array *arrays, int64_t count, int64_t chunks, int32_t threads, int wake,
                           fo_visit *visit, const void *context)
{
    fo_job job;
    job.arrays = arrays;
    job.count = count;
    job.visit = visit;
    job.context = context;
    job.threads = threads;
    start_helpers(threads - 1);
    share_out(&job, chunks);
    open_door(&job, wake);
    work(&job, 0);
    close_door();
}

#endif

void fo_for_each_chunk(const fo_array *arrays, int64_t count, int32_t threads, int64_t work, fo_visit *visit,
                       const void *context)
{
    int64_t elements = 0;
    for (int64_t i = 0; i < count; i++)
        elements += arrays[i].length;
    if (elements == 0)
        return;
    const int64_t chunks = arrays[count - 1].first_chunk + chunk_count(arrays[count - 1].length);
#if FO_HAS_THREADS
    const int64_t worth = elements * work;
    if (threads > worth / MIN_ELEMENTS_PER_THREAD)
        threads = (int32_t)(worth / MIN_ELEMENTS_PER_THREAD);
    if (threads > chunks)
        threads = (int32_t)chunks;
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    if (threads > 1) {
        const int wake = is_worth_waking(worth);
        if ((wake || !all_sleep(threads - 1)) && pthread_mutex_trylock(&pool_in_use) == 0) {
            visit_together(arrays, count, chunks, threads, wake, visit, context);
            pthread_mutex_unlock(&pool_in_use);
        } else
            visit_chunks(arrays, count, 0, chunks, visit, context);
        pool.last_end = nanoseconds();
        return;
    }
#else
    (void)threads, (void)work;
#endif
    visit_chunks(arrays, count, 0, chunks, visit, context);
}

int32_t fo_has_threads(void)
{
    return FO_HAS_THREADS;
}
