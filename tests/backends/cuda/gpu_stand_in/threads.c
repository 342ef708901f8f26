// Runs kernels that were translated to C: a thread has a stack of its own, left at barriers only. A switch is a jump, as
// that of ucontext is a call of the system; the stack stays for the threads of this number in other blocks.
#define _GNU_SOURCE
#include "threads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

enum { WARP = 32, MOST_THREADS = 1024, STACK = 1 << 18 };

typedef enum { READY, AT_WARP_BARRIER, AT_BLOCK_BARRIER, DONE } State;

typedef struct {
    bool has_stack;
    jmp_buf left_at;
    State state;
    const char *place;
    // By turns: a thread may be at its next exchange before another has read what it gave to this one.
    u32 given[2];
    unsigned exchanges;
} Thread;

struct Here here;
char launch_error[512];

static Thread threads[MOST_THREADS];
static _Alignas(16) char stacks[MOST_THREADS][STACK];
static jmp_buf scheduler;
static unsigned thread_count, current;
static const Kernel *kernel;
static void *const *arguments;

static void report(const char *place, const char *format, ...)
{
    int length = snprintf(launch_error, sizeof launch_error, "thread (%u, %u) of block %u, at %s: ", here.x, here.y,
                          here.block, place);
    va_list values;
    va_start(values, format);
    vsnprintf(launch_error + length, sizeof launch_error - (size_t)length, format, values);
    va_end(values);
}

// No thread goes on.
static void end_launch(void)
{
    _longjmp(scheduler, 1);
}

static void leave(void)
{
    if (!_setjmp(threads[current].left_at))
        _longjmp(scheduler, 1);
}

static void *checked(u64 address, unsigned size, bool is_inside, const char *place)
{
    if (address % size) {
        report(place, "%#llx is not aligned to %u bytes", (unsigned long long)address, size);
        end_launch();
    }
    if (!is_inside) {
        report(place, "%u bytes at %#llx are not all in memory that was allocated", size, (unsigned long long)address);
        end_launch();
    }
    return (void *)address;
}

void *device_global(u64 address, unsigned size, const char *place)
{
    return checked(address, size, is_allocated(address, size), place);
}

void *device_shared(u64 address, unsigned size, const char *place)
{
    bool is_inside = false;
    for (const Span *span = kernel->shared; span->size; span++)
        is_inside |= address >= span->address && address - span->address + size <= span->size;
    return checked(address, size, is_inside, place);
}

static void wait_at(State barrier, const char *place)
{
    threads[current].state = barrier;
    threads[current].place = place;
    leave();
}

void device_block_barrier(u32 barrier, const char *place)
{
    if (barrier != 0) {
        report(place, "there is barrier 0 only");
        end_launch();
    }
    wait_at(AT_BLOCK_BARRIER, place);
}

void device_warp_barrier(u32 mask, const char *place)
{
    if (mask != UINT32_MAX) {
        report(place, "warps wait as a whole only");
        end_launch();
    }
    wait_at(AT_WARP_BARRIER, place);
}

u32 device_exchanged(u32 value, u32 distance, u32 clamp, u32 mask, const char *place)
{
    if (clamp != WARP - 1 || distance >= WARP) {
        report(place, "warps exchange as a whole only");
        end_launch();
    }
    unsigned me = current, turn = threads[me].exchanges++ % 2;
    threads[me].given[turn] = value;
    device_warp_barrier(mask, place);
    return threads[me ^ distance].given[turn];
}

static void run_thread(void)
{
    for (;;) {
        kernel->run(arguments);
        threads[current].state = DONE;
        leave();
    }
}

// Let a group of threads go on where all of it are at one barrier.
static bool released(unsigned first, unsigned count, State barrier)
{
    if (first + count > thread_count)
        return false;
    for (unsigned i = first; i < first + count; i++)
        if (threads[i].state != barrier || threads[i].place != threads[first].place)
            return false;
    for (unsigned i = first; i < first + count; i++)
        threads[i].state = READY;
    return true;
}

static bool is_any_released(void)
{
    bool is_any = released(0, thread_count, AT_BLOCK_BARRIER);
    for (unsigned first = 0; first < thread_count; first += WARP)
        is_any |= released(first, WARP, AT_WARP_BARRIER);
    return is_any;
}

static void go_on(unsigned number)
{
    current = number;
    here.x = number % here.width;
    here.y = number / here.width;
    if (_setjmp(scheduler))
        return;
    if (threads[number].has_stack)
        _longjmp(threads[number].left_at, 1);
    threads[number].has_stack = true;
    ucontext_t first;
    getcontext(&first);
    first.uc_stack = (stack_t){.ss_sp = stacks[number], .ss_size = STACK};
    makecontext(&first, run_thread, 0);
    setcontext(&first);
}

static void run_block(bool is_descending)
{
    // Nobody may count on what was there.
    for (const Span *span = kernel->shared; span->size; span++)
        memset((void *)span->address, 0xAB, span->size);
    for (unsigned i = 0; i < thread_count; i++) {
        threads[i].state = READY;
        threads[i].exchanges = 0;
    }
    do {
        unsigned left = 0;
        for (unsigned i = 0; i < thread_count; i++) {
            unsigned number = is_descending ? thread_count - 1 - i : i;
            if (threads[number].state == READY)
                go_on(number);
            if (launch_error[0])
                return;
            left += threads[number].state != DONE;
        }
        if (!left)
            return;
    } while (is_any_released());
    unsigned waiting = 0;
    while (threads[waiting].state == DONE)
        waiting++;
    here.x = waiting % here.width;
    here.y = waiting / here.width;
    report(threads[waiting].place, "waits for threads that do not come here");
}

bool run_kernel(const Kernel *which, unsigned blocks, unsigned width, unsigned height, void *const *with,
                bool is_descending)
{
    launch_error[0] = 0;
    thread_count = width * height;
    if (!blocks || !thread_count || thread_count > MOST_THREADS ||
        (which->most_threads && thread_count > which->most_threads)) {
        snprintf(launch_error, sizeof launch_error, "%u blocks of %u threads can't be launched", blocks, thread_count);
        return false;
    }
    kernel = which;
    arguments = with;
    here.width = width;
    for (unsigned i = 0; i < blocks && !launch_error[0]; i++) {
        here.block = is_descending ? blocks - 1 - i : i;
        run_block(is_descending);
    }
    // Threads that were left in the middle begin anew.
    if (launch_error[0])
        for (unsigned i = 0; i < MOST_THREADS; i++)
            threads[i].has_stack = false;
    return !launch_error[0];
}
