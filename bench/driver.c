/* The C side alone, for tools that look at a program: instruction counts, caches, data races.

     cc -O3 -g -std=c11 -ffp-contract=off -fno-math-errno -fopenmp-simd -pthread -Icsrc bench/driver.c csrc/[a-z]*.c -lm
     valgrind --tool=callgrind ./a.out adam avx2 100000 50 1        (instructions: rule, set, elements, steps, threads)
     perf stat -e instructions,cycles ./a.out adam avx512 100000 1000 1

   With clang -fsanitize=thread, several threads and thousands of steps it looks for races in the pool. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastopt.h"

enum { ARRAYS = 5 };

static int32_t numbered(const char *wanted, const char *(*name)(int32_t), int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if (strcmp(name(i), wanted) == 0)
            return i;
    fprintf(stderr, "there is no %s\n", wanted);
    exit(2);
}

static float *filled(int64_t length, float value)
{
    float *array = malloc(sizeof(float) * (size_t)(length + 1)); /* of nothing, malloc may return NULL */
    if (!array)
        exit(1);
    for (int64_t i = 0; i < length; i++)
        array[i] = value + (float)(i % 7);
    return array;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: %s rule instruction_set elements steps threads\n", argv[0]);
        return 2;
    }
    const int64_t elements = atoll(argv[3]), steps = atoll(argv[4]);
    if (elements < 1) {
        fprintf(stderr, "elements: expected at least 1, got %s\n", argv[3]);
        return 2;
    }
    fo_hyper hyper = {
        .grad_scale = 1, .clip_value = 1e300 * 1e300, .global_clip = 1, .decay = 1, .stages = FO_UPDATE | FO_FINISH};
    hyper.lower = -hyper.clip_value, hyper.upper = hyper.clip_value;
    hyper.rule = numbered(argv[1], fo_rule_name, fo_rule_count());
    for (int i = 0; i < FO_MAX_SCALARS; i++)
        hyper.scalars[i] = 0.5;
    fo_isa_use(numbered(argv[2], fo_isa_name, FO_ISA_COUNT));
    fo_array arrays[ARRAYS] = {0};
    void *grads[ARRAYS];
    int64_t chunks = 0;
    for (int i = 0; i < ARRAYS; i++) {
        const int64_t length = elements / ARRAYS + (i < elements % ARRAYS);
        arrays[i] = (fo_array){.length = length, .first_chunk = chunks, .array_clip = 1};
        arrays[i].param = filled(arrays[i].length, 1);
        for (int k = 0; k < FO_MAX_SLOTS; k++)
            arrays[i].slots[k] = filled(arrays[i].length, 2);
        grads[i] = filled(arrays[i].length, 0.5f);
        chunks += (arrays[i].length + FO_CHUNK - 1) / FO_CHUNK;
    }
    fo_reading *partials = malloc(sizeof(fo_reading) * (size_t)(chunks + 1)), readings[ARRAYS] = {{0, 0}};
    for (int64_t step = 0; step < steps; step++) {
        fo_step(arrays, grads, ARRAYS, &hyper, atoi(argv[5]), NULL);
        if (step == 0)
            fo_sum_products(arrays, grads, ARRAYS, &hyper, FO_GRAD, FO_GRAD, 1, partials, readings, atoi(argv[5]));
    }
    printf("%s %s: %g %g\n", argv[1], argv[2], (double)((float *)arrays[0].param)[0], readings[0].sum);
    return 0;
}
