/* Several threads that step at once, with changing numbers of threads, while the program forks: for ThreadSanitizer.

     callers INSTRUCTION_SET ROUNDS [shared]

   Every caller has a table of its own and makes the steps of every rule; its bits must be those of one thread. A child
   process steps too. With `shared` the callers step one table: a race, which must be found. */
#define _DEFAULT_SOURCE
#include "workload.h"

#include <pthread.h>
#include <sys/wait.h>

enum { CALLERS = 3, MOST_THREADS = 4, MOST_RULES = 128 };

static const int64_t lengths[] = {12301, 70, 4097, 16400};
enum { ARRAYS = sizeof lengths / sizeof lengths[0] };
static const place places[ALL_ROLES] = {AT_END};

/* ThreadSanitizer fails where a child process starts threads. */
#ifdef __SANITIZE_THREAD__
enum { CHILD_THREADS = 1 };
#else
enum { CHILD_THREADS = MOST_THREADS };
#endif

/* Of one thread, by rule. */
static uint64_t expected[MOST_RULES];
static int rounds, is_shared;
static _Atomic int faults;

/* Two steps and a sum, one right after the other: then the helpers are awake. */
static uint64_t steps_of(table *of, int32_t rule, int32_t threads)
{
    set_up(of, rule, &storages[rule % 2 ? MIXED : 0], TOGETHER);
    for (int step = 0; step < 2; step++)
        fo_step(of->arrays, of->grads, of->count, of->hypers, threads, NULL);
    fo_accumulate(of->arrays, of->grads, of->count, of->hypers, threads, NULL);
    return hash_table(hash_sums(0, of, FO_GRAD, FO_PARAM, 1, threads), of);
}

static void *call(void *argument)
{
    table *of = argument;
    for (int round = 0; round < rounds; round++)
        for (int32_t rule = 0; rule < fo_rule_count(); rule++)
            if (is_shared)
                fo_step(of->arrays, of->grads, of->count, of->hypers, 1, NULL);
            else if (steps_of(of, rule, 1 + (round + rule) % MOST_THREADS) != expected[rule])
                faults++;
    return NULL;
}

/* Return whether a child process has the same bits. */
static int is_right_in_child(table *of, int32_t rule)
{
    const pid_t child = fork();
    if (child == 0)
        _exit(steps_of(of, rule, CHILD_THREADS) != expected[rule]);
    int status;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv)
{
    const int32_t isa = argc < 3 ? -1 : isa_named(argv[1]);
    if (isa < 0) {
        fprintf(stderr, "usage: %s instruction_set rounds [shared]\n", argv[0]);
        return 2;
    }
    fo_isa_use(isa);
    rounds = atoi(argv[2]);
    is_shared = argc > 3;
    make_pools();
    table *tables[CALLERS + 1];
    for (int i = 0; i <= CALLERS; i++)
        tables[i] = new_table(lengths, ARRAYS, places);
    for (int32_t rule = 0; rule < fo_rule_count(); rule++)
        expected[rule] = steps_of(tables[0], rule, 1);
    pthread_t callers[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, call, tables[is_shared ? 0 : i]) != 0)
            return 1;
    for (int round = 0; round < rounds; round++)
        for (int32_t rule = 0; rule < fo_rule_count(); rule += 7)
            faults += !is_right_in_child(tables[CALLERS], rule);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i], NULL);
    printf("%d callers, %d rounds of %d rules, %d faults\n", CALLERS, rounds, (int)fo_rule_count(), faults);
    return faults != 0;
}
