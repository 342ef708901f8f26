/* Which calls ask the pool of csrc/parallel.c for help. It is included here because only it knows the pool. */
#include "parallel.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 5 * FO_CHUNK, LARGE = MIN_ELEMENTS_TO_WAKE, TRIES = 1000 };

static _Atomic int visits[LARGE / FO_CHUNK];

static void visit(const void *context, int64_t index, int64_t chunk, int64_t begin, int64_t end)
{
    (void)context, (void)index;
    if (begin == chunk * FO_CHUNK && end - begin == FO_CHUNK)
        visits[chunk]++;
}

static uint64_t doors(void)
{
    return pool.door / JOB;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){0, ms * 1000000}, NULL);
}

static void wait_until_all_sleep(void)
{
    while (!all_sleep(1) || nanoseconds() - pool.last_end < 2 * BACK_TO_BACK_NS)
        sleep_ms(1);
}

/* Visit `length` elements on two threads; return how many doors were opened for it. */
static int doors_of(int64_t length)
{
    const fo_array array = {.length = length};
    const uint64_t before = doors();
    memset((void *)visits, 0, sizeof visits);
    fo_for_each_chunk(&array, 1, 2, 1, visit, NULL);
    for (int64_t chunk = 0; chunk < length / FO_CHUNK; chunk++)
        if (visits[chunk] != 1) {
            printf("chunk %d was visited %d times\n", (int)chunk, visits[chunk]);
            exit(1);
        }
    return (int)(doors() - before);
}

/* Return whether a call right after another one opened a door. The scheduler may come in between. */
static int is_opened_back_to_back(void)
{
    for (int i = 0; i < TRIES; i++) {
        wait_until_all_sleep();
        if (doors_of(SMALL) == 0 && doors_of(SMALL) == 1)
            return 1;
    }
    return 0;
}

int main(void)
{
    printf("helpers not started: %d\n", doors_of(SMALL));
    wait_until_all_sleep();
    printf("small, all asleep: %d\n", doors_of(SMALL));
    wait_until_all_sleep();
    printf("large, all asleep: %d\n", doors_of(LARGE));
    printf("small, back to back: %d\n", is_opened_back_to_back());
    return 0;
}
