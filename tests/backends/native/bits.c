/* Hashes of the bits of all that the C code computes: every rule with every storage and option, sums, and copies.

     bits INSTRUCTION_SET THREADS begin|end|apart [RULE]

   prints a line for each rule and each other function, and one for all; or for that rule alone. csrc/tools/check_bits.py
   compares them with its record. Neither the instruction set, nor the threads, nor the place of the buffers may change a
   line. All buffers are in guarded memory: at its end, at its begin, or at the one and the other by turns.

     bits INSTRUCTION_SET THREADS overrun

   tries the guards: for each buffer in turn, a step of one element too many must crash. Without arguments it prints the
   instruction sets that this machine has. */
#define _DEFAULT_SOURCE
#include "codes.h"
#include "histories.h"
#include "ndarray.h"
#include "workload.h"

#include <signal.h>
#include <sys/wait.h>

#define COUNT(array) ((int64_t)(sizeof(array) / sizeof((array)[0])))

/* Around the widths of vectors, of blocks and of 8-bit blocks, and of the lanes of a sum. */
static const int64_t short_lengths[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 70, 255, 256, 257, 300, 1023, 1025};
/* Around a chunk, in chunks that threads share. */
static const int64_t long_lengths[] = {4095, 4096, 4097, 8200, 12301, 70};

enum { EVERY_LENGTH = 70 };
static int64_t every_length[EVERY_LENGTH];

static table *short_table, *long_table, *every_table;
static int32_t threads;

static int32_t option_at(int place)
{
    return place == 0 ? 0 : 1 << (place - 1);
}

static int64_t *zero_counts(const table *of)
{
    const int64_t length = 2 * (1 + of->count);
    int64_t *counts = put(of->counts, of->at[COUNTS], length, sizeof(int64_t));
    memset(counts, 0, (size_t)length * sizeof(int64_t));
    return counts;
}

static uint64_t hash_step(uint64_t hash, table *of, int32_t rule, const storage *stored, int options)
{
    set_up(of, rule, stored, options);
    of->grads[3] = NULL;
    int64_t *counts = zero_counts(of);
    fo_step(of->arrays, of->grads, of->count, of->hypers, threads, counts);
    return hash_table(hash_integers(hash, counts, 2 * (1 + of->count)), of);
}

/* Several steps, one right after the other: then threads help. */
static uint64_t hash_long_steps(uint64_t hash, int32_t rule, const storage *stored)
{
    table *of = long_table;
    set_up(of, rule, stored, TOGETHER & ~ZERO_GRADS);
    for (int step = 0; step < 3; step++)
        fo_step(of->arrays, of->grads, of->count, of->hypers, threads, NULL);
    return hash_table(hash, of);
}

static uint64_t hash_rule(int32_t rule)
{
    uint64_t hash = 0;
    for (int k = 0; k < STORAGES; k++) {
        for (int place = 0; option_at(place) < ALL_OPTIONS; place++)
            hash = hash_step(hash, short_table, rule, &storages[k], option_at(place));
        hash = hash_step(hash, short_table, rule, &storages[k], TOGETHER);
        hash = hash_step(hash, every_table, rule, &storages[k], TOGETHER);
    }
    hash = hash_long_steps(hash, rule, &storages[0]);
    hash = hash_long_steps(hash, rule, &storages[MIXED]);
    return hash_long_steps(hash, rule, &storages[WIDE]);
}

/* A rule of the user's own, with fewer slots than the arrays. */
#define OWN_LOOP(REAL)                                                                                               \
    static void own_loop_of_##REAL(REAL *p, const REAL *g, void *const *slots, int64_t begin, int64_t length,        \
                                   REAL decay, const double *scalars)                                                \
    {                                                                                                                \
        REAL *sum = (REAL *)slots[0] + begin, *product = (REAL *)slots[1] + begin, *last = (REAL *)slots[2] + begin; \
        for (int64_t i = 0; i < length; i++) {                                                                       \
            sum[i] = sum[i] + g[i];                                                                                  \
            product[i] = product[i] * g[i];                                                                          \
            last[i] = g[i];                                                                                          \
            p[i] = p[i] * decay;                                                                                     \
            p[i] = p[i] - (REAL)scalars[FO_MAX_SCALARS - 1];                                                         \
        }                                                                                                            \
    }
OWN_LOOP(float)
OWN_LOOP(double)

static uint64_t hash_own_rule(void)
{
    const fo_own_rule own = {.loops = {(uintptr_t)own_loop_of_float, (uintptr_t)own_loop_of_double}, .slot_count = 3};
    own_rule = &own;
    const uint64_t hash = hash_rule(0);
    own_rule = NULL;
    return hash;
}

/* Two rules and every storage with these options, alone and among others. */
static uint64_t hash_steps(int options)
{
    static const int among[] = {0, AVERAGE_SET | COPY_BFLOAT16, FINISH_ALONE, TOGETHER};
    uint64_t hash = 0;
    for (int32_t rule = 0; rule < fo_rule_count(); rule++)
        for (int k = 0; k < STORAGES; k++)
            for (int i = 0; i < COUNT(among); i++)
                if (strcmp(fo_rule_name(rule), "sgd") == 0 || strcmp(fo_rule_name(rule), "adam") == 0)
                    hash = hash_step(hash, short_table, rule, &storages[k], options | among[i]);
    return hash;
}

static uint64_t hash_cautious(void)
{
    return hash_steps(CAUTIOUS);
}

static uint64_t hash_bounds(void)
{
    return hash_steps(BOUNDS);
}

static uint64_t hash_array_bounds(void)
{
    return hash_steps(ARRAY_BOUNDS);
}

static uint64_t hash_accumulating(void)
{
    static const int options[] = {0, SCALE, ZERO_GRADS, SCALE | ZERO_GRADS};
    uint64_t hash = 0;
    for (int k = 0; k < STORAGES; k++)
        for (int i = 0; i < COUNT(options); i++)
            for (int is_long = 0; is_long < 2; is_long++) {
                table *of = is_long ? long_table : short_table;
                set_up(of, 0, &storages[k], ACCUMULATED_MEAN | options[i]);
                for (int group = 0; group < GROUPS; group++)
                    of->hypers[group].mean = 0;
                int64_t *counts = zero_counts(of);
                fo_accumulate(of->arrays, of->grads, of->count, of->hypers, threads, counts);
                hash = hash_table(hash_integers(hash, counts, 2 * (1 + of->count)), of);
            }
    return hash;
}

static uint64_t hash_sums_of(uint64_t hash, const table *of, const storage *stored)
{
    const int32_t last = stored->slot_dtypes[1] == stored->dtype ? 1 : FO_GRAD;
    for (int32_t left = FO_PARAM; left <= last; left++)
        for (int32_t right = FO_PARAM; right <= last; right++)
            hash = hash_sums(hash, of, left, right, left == FO_CLIPPED_GRAD || left == FO_GRAD, threads);
    return hash;
}

static uint64_t hash_products(void)
{
    static const int options[] = {0, SCALE, ACCUMULATED_MEAN, CLIP_VALUE | CLIP_NORMS, L2, L1, TOGETHER};
    uint64_t hash = 0;
    for (int k = 0; k < STORAGES; k++)
        for (int i = 0; i < COUNT(options); i++) {
            set_up(short_table, 0, &storages[k], options[i]);
            hash = hash_sums_of(hash, short_table, &storages[k]);
        }
    for (int k = 0; k < STORAGES; k++) {
        set_up(long_table, 0, &storages[k], TOGETHER);
        hash = hash_sums_of(hash, long_table, &storages[k]);
    }
    return hash;
}

/* As hash_products, with the sources that are made of slots. */
static uint64_t hash_products_of_slots(void)
{
    static const int32_t sources[] = {FO_GRAD, FO_PARAM, 0, FO_DISTANCE, FO_DISTANCE + 1, FO_SIGNS, FO_SIGNS + 1};
    uint64_t hash = 0;
    for (int k = 0; k < STORAGES; k++)
        for (int is_long = 0; is_long < 2; is_long++) {
            table *of = is_long ? long_table : short_table;
            set_up(of, 0, &storages[k], TOGETHER);
            if (storages[k].slot_dtypes[1] == storages[k].dtype)
                for (int left = 0; left < COUNT(sources); left++)
                    for (int right = 3; right < COUNT(sources); right++)
                        hash = hash_sums(hash, of, sources[left], sources[right], 0, threads);
        }
    return hash;
}

static histories *short_histories, *long_histories;

static uint64_t hash_histories(void)
{
    uint64_t hash = 0;
    for (int k = 0; k < STORAGES; k++)
        for (int has_bounds = 0; has_bounds < 2 && storages[k].param_dtype == storages[k].dtype; has_bounds++) {
            hash = hash_history(hash, short_table, short_histories, &storages[k], has_bounds, threads);
            hash = hash_history(hash, long_table, long_histories, &storages[k], has_bounds, threads);
        }
    return hash;
}

/* Buffers that are in no table. */
enum { MOST_VALUES = 1 << 16 };
static room values_room, results_room;
static place at[ALL_ROLES];

static uint64_t hash_axis_sums(void)
{
    static const int64_t shapes[][3] = {{1, 1, 1},  {1, 4095, 1}, {2, 4097, 1}, {3, 17, 1},  {2, 33, 5},
                                        {3, 15, 7}, {1, 4099, 3}, {2, 20, 129}, {1, 9, 300}, {5, 1, 128}};
    uint64_t hash = 0;
    for (int i = 0; i < COUNT(shapes); i++)
        for (int32_t dtype = FO_FLOAT32; dtype <= FO_FLOAT64; dtype++)
            for (kind of = POSITIVE; of < KINDS; of++) {
                const int64_t outer = shapes[i][0], size = shapes[i][1], inner = shapes[i][2];
                const int64_t length = outer * size * inner;
                void *values = put(values_room, at[PARAM], length, formats[dtype].size);
                double *sums = put(results_room, at[GRAD], outer * inner, sizeof(double));
                fill(values, length, dtype, of, (uint64_t)i);
                fill(sums, outer * inner, FO_FLOAT64, POSITIVE, (uint64_t)i);
                fo_sum_squares(values, dtype, outer, size, inner, sums);
                hash = hash_numbers(hash, sums, outer * inner, FO_FLOAT64);
            }
    return hash;
}

static uint64_t hash_row_sums(void)
{
    static const int64_t order[] = {4, 0, 7, 7, 2, 1, 3, 3, 3}, firsts[] = {0, 1, 4, 8};
    static const int64_t widths[] = {1, 3, 8, 17, 64, 257};
    uint64_t hash = 0;
    for (int i = 0; i < COUNT(widths); i++)
        for (int32_t dtype = FO_FLOAT32; dtype <= FO_FLOAT64; dtype++)
            for (kind of = POSITIVE; of < KINDS; of++) {
                void *values = put(values_room, at[PARAM], 8 * widths[i], formats[dtype].size);
                void *sums = put(results_room, at[GRAD], COUNT(firsts) * widths[i], formats[dtype].size);
                fill(values, 8 * widths[i], dtype, of, (uint64_t)i);
                fo_add_rows(values, dtype, widths[i], order, COUNT(order), firsts, COUNT(firsts), sums);
                hash = hash_numbers(hash, sums, COUNT(firsts) * widths[i], dtype);
            }
    return hash;
}

/* Rows of every dtype, one of them in several arrays, with a sum of its own, one of zero, and one that begins with a
   row. */
static uint64_t hash_accumulated_rows(void)
{
    static const int64_t lengths[] = {1, 15, 1025, 4099};
    static const double scales[] = {1.0, -1.0 / 3};
    uint64_t hash = 0;
    for (int i = 0; i < COUNT(lengths); i++)
        for (int32_t dtype = FO_FLOAT32; dtype <= FO_FLOAT64; dtype++)
            for (int32_t row_dtype = FO_FLOAT32; row_dtype <= FO_BFLOAT16; row_dtype++)
                for (kind of = POSITIVE; of < KINDS; of++)
                    for (int32_t from = FO_FROM_SUMS; from <= FO_FROM_ROW; from++) {
                        const int64_t length = lengths[i], size = formats[row_dtype].size;
                        char *values = put(values_room, at[PARAM], 3 * length, size);
                        void *sums = put(results_room, at[GRAD], length, formats[dtype].size);
                        void *const arrays[] = {values, NULL, values + size, values};
                        const int32_t dtypes[] = {row_dtype, row_dtype, row_dtype, row_dtype};
                        const int64_t starts[] = {0, length / 3, length / 2, length, length + 2};
                        const fo_packed packed = {arrays, dtypes, starts, COUNT(arrays)};
                        const void *const rows[] = {values, values + 2 * length * size, NULL, values + length * size};
                        fill(values, 3 * length, row_dtype, of, (uint64_t)i);
                        fill(sums, length, dtype, of, (uint64_t)i + 1);
                        fo_accumulate_rows(&packed, 2, rows, row_dtype, COUNT(rows), length, scales[i % 2], from, dtype,
                                           sums, 1);
                        hash = hash_numbers(hash, sums, length, dtype);
                    }
    return hash;
}

/* Arrays of every dtype in vectors of every dtype, all and a part of them. */
static uint64_t hash_packing(void)
{
    static const int64_t starts[] = {0, 3, 3, 20, 1050};
    static const int64_t ends[][2] = {{0, 1050}, {2, 1000}};
    uint64_t hash = 0;
    for (int i = 0; i < COUNT(ends); i++)
        for (int32_t from = FO_FLOAT32; from <= FO_BFLOAT16; from++)
            for (int32_t into = FO_FLOAT32; into <= FO_BFLOAT16; into++)
                for (kind of = POSITIVE; of < KINDS; of++) {
                    char *values = put(values_room, at[PARAM], 1050, formats[from].size);
                    char *vector = put(results_room, at[GRAD], 1050, formats[into].size);
                    void *const arrays[] = {values, values, NULL, values + 20 * formats[from].size};
                    const int32_t dtypes[] = {from, from, from, from};
                    fill(values, 1050, from, of, 1);
                    memset(vector, 0, 1050 * formats[into].size);
                    const fo_packed packed = {arrays, dtypes, starts, COUNT(arrays)};
                    char *const part = vector + ends[i][0] * formats[into].size;
                    fo_pack(&packed, ends[i][0], ends[i][1], into, part, 1);
                    hash = hash_numbers(hash, vector, 1050, into);
                    if (from == into) {
                        void *const back[] = {values, values, values + 3 * formats[from].size, values};
                        const fo_packed unpacked = {back, dtypes, starts, COUNT(back)};
                        fo_unpack(&unpacked, ends[i][0], ends[i][1], into, part, 1);
                        hash = hash_numbers(hash, values, 1050, from);
                    }
                }
    return hash;
}

static uint64_t hash_dots(void)
{
    static const int64_t lengths[] = {0, 1, 15, 16, 17, 70, 4095, 4096, 4099, 8200};
    double sums[COUNT(lengths)][KINDS];
    for (int i = 0; i < COUNT(lengths); i++)
        for (kind of = POSITIVE; of < KINDS; of++) {
            double *left = put(values_room, at[PARAM], lengths[i], sizeof(double));
            double *right = put(results_room, at[GRAD], lengths[i], sizeof(double));
            fill(left, lengths[i], FO_FLOAT64, of, (uint64_t)i);
            fill(right, lengths[i], FO_FLOAT64, of, (uint64_t)i + 1);
            sums[i][of] = fo_dot(left, right, lengths[i]);
        }
    return hash_numbers(0, sums, COUNT(lengths) * KINDS, FO_FLOAT64);
}

/* Several passes, one right after the other: then threads help. */
static uint64_t hash_bfgs(void)
{
    enum { MOST_ROWS = 328, MOST_PANELS = 6, VECTORS = 4 };
    static const int64_t sizes[] = {8, 56, 64, 72, 136, MOST_ROWS};
    uint64_t hash = 0;
    for (int i = 0; i < COUNT(sizes); i++)
        for (kind of = POSITIVE; of < KINDS; of++) {
            const int64_t size = sizes[i], count = (size + FO_PANEL_ROWS - 1) / FO_PANEL_ROWS;
            fo_array panels[MOST_PANELS] = {{0}};
            double vectors[VECTORS][MOST_ROWS], products[2][MOST_ROWS];
            int64_t length = 0, chunks = 0;
            for (int64_t k = 0; k < count; k++) {
                const int64_t end = (k + 1) * FO_PANEL_ROWS < size ? (k + 1) * FO_PANEL_ROWS : size;
                panels[k].length = (end - k * FO_PANEL_ROWS) * end;
                panels[k].first_chunk = chunks;
                chunks += (panels[k].length + FO_CHUNK - 1) / FO_CHUNK;
                length += panels[k].length;
            }
            double *matrix = put(values_room, at[PARAM], length, sizeof(double));
            double *columns = put(results_room, at[GRAD], FO_PANEL_ROWS * count * (count - 1), sizeof(double));
            for (int64_t k = 0, begin = 0; k < count; begin += panels[k++].length) {
                panels[k].param = matrix + begin;
                fill(matrix + begin, panels[k].length, FO_FLOAT64, of, (uint64_t)k);
            }
            for (int k = 0; k < VECTORS; k++)
                fill(vectors[k], size, FO_FLOAT64, of, (uint64_t)(i + k));
            const fo_bfgs_vectors given = {vectors[0], vectors[1], vectors[2], vectors[3]};
            for (int pass = 0; pass < 3; pass++)
                fo_bfgs_pass(panels, count, size, &given, columns, products[0], threads);
            hash = hash_numbers(hash_numbers(hash, matrix, length, FO_FLOAT64), products, 2 * size, FO_FLOAT64);
        }
    return hash;
}

static uint64_t hash_all_codes(void)
{
    return hash_codes(at, threads);
}

/* Copies of arrays with any strides. The memory is that of a C-ordered array, of which `steps` takes a part; a negative
   step begins at the other end. */
static uint64_t hash_copies(void)
{
    static const struct {
        int32_t dimensions;
        intptr_t shape[4], steps[4];
    } arrays[] = {{0, {1}, {1}},
                  {1, {70}, {1}},
                  {1, {33}, {-3}},
                  {2, {5, 7}, {2, 1}},
                  {2, {33, 40}, {1, -2}},
                  {3, {3, 34, 5}, {-1, 1, 2}},
                  {4, {2, 3, 4, 5}, {1, 2, -1, 1}}};
    static const int32_t dtypes[] = {FO_FLOAT16, FO_FLOAT32, FO_FLOAT64};
    uint64_t hash = 0;
    for (int i = 0; i < COUNT(arrays); i++)
        for (int k = 0; k < COUNT(dtypes); k++)
            for (int is_reversed = 0; is_reversed < 2; is_reversed++) {
                const int64_t size = (int64_t)formats[dtypes[k]].size;
                intptr_t shape[4], strides[4], first = 0;
                int64_t all = 1, taken = 1;
                for (int axis = arrays[i].dimensions - 1; axis >= 0; axis--) {
                    const intptr_t step = arrays[i].steps[axis], length = arrays[i].shape[axis];
                    const intptr_t long_length = (length - 1) * (step < 0 ? -step : step) + 1;
                    shape[axis] = length;
                    strides[axis] = step * all * size;
                    first += step < 0 ? (long_length - 1) * all : 0;
                    taken *= length, all *= long_length;
                }
                char *values = put(values_room, at[PARAM], all, (size_t)size);
                void *copy = put(results_room, at[GRAD], taken, (size_t)size);
                fill(values, all, dtypes[k], WILD, (uint64_t)i);
                const fo_ndarray array = {.memory = values + first * size,
                                          .dimensions = arrays[i].dimensions,
                                          .shape = shape,
                                          .strides = strides};
                fo_copy_in_order(&array, size, is_reversed, copy);
                hash = hash_numbers(hash, copy, taken, dtypes[k]);
            }
    return hash;
}

static const struct {
    const char *name;
    uint64_t (*hash)(void);
} functions[] = {{"fo_own_rule", hash_own_rule},
                 {"fo_accumulate", hash_accumulating},
                 {"fo_sum_products", hash_products},
                 {"fo_sum_products of slots", hash_products_of_slots},
                 {"fo_sum_squares", hash_axis_sums},
                 {"fo_add_rows", hash_row_sums},
                 {"fo_accumulate_rows", hash_accumulated_rows},
                 {"fo_pack", hash_packing},
                 {"fo_dot", hash_dots},
                 {"fo_bfgs_pass", hash_bfgs},
                 {"fo_code_rows", hash_all_codes},
                 {"fo_copy_in_order", hash_copies},
                 {"fo_history", hash_histories},
                 {"cautious", hash_cautious},
                 {"bounds", hash_bounds},
                 {"bounds of elements", hash_array_bounds}};

static uint64_t print_hash(const char *name, uint64_t hash)
{
    printf("%s %016llx\n", name, (unsigned long long)hash);
    return hash;
}

/* Print the hash of one rule, or of everything if it is NULL. */
static void print_hashes(const char *wanted)
{
    uint64_t all = 0;
    for (int32_t rule = 0; rule < fo_rule_count(); rule++)
        if (!wanted || strcmp(wanted, fo_rule_name(rule)) == 0)
            all = mixed(all ^ print_hash(fo_rule_name(rule), hash_rule(rule)));
    if (wanted)
        return;
    for (int i = 0; i < COUNT(functions); i++)
        all = mixed(all ^ print_hash(functions[i].name, functions[i].hash()));
    print_hash("all", all);
}

static int print_isas(void)
{
    for (int32_t isa = 0; isa < FO_ISA_COUNT; isa++)
        if (fo_isa_found(isa))
            printf("%s\n", fo_isa_name(isa));
    return 0;
}

/* Return whether steps that go one element too far crash if only the buffers of this role end at a guard. */
static int is_guarded(int role)
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        short_table->at[role] = AT_END;
        for (int32_t rule = 0; rule < fo_rule_count(); rule++)
            for (int k = 0; k < STORAGES; k++) {
                set_up(short_table, rule, &storages[k], TOGETHER | ARRAY_BOUNDS);
                for (int64_t i = 0; i < short_table->count; i++)
                    short_table->arrays[i].length++;
                fo_step(short_table->arrays, short_table->grads, short_table->count, short_table->hypers, 1, NULL);
            }
        _exit(0);
    }
    int status;
    return child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
           (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static int try_guards(void)
{
    for (int role = 0; role < ROLES; role++)
        if (!is_guarded(role)) {
            printf("buffer %d is not guarded\n", role);
            return 1;
        }
    printf("%d of %d buffers are guarded\n", ROLES, ROLES);
    return 0;
}

/* Put buffers where `name` says; return whether it is a known one. */
static int choose_places(const char *name)
{
    const int is_apart = strcmp(name, "apart") == 0, is_end = strcmp(name, "end") == 0;
    for (int role = 0; role < ALL_ROLES; role++)
        at[role] = is_end || (is_apart && role % 2) ? AT_END : AT_BEGIN;
    return is_apart || is_end || strcmp(name, "begin") == 0 || strcmp(name, "overrun") == 0;
}

int main(int argc, char **argv)
{
    if (argc == 1)
        return print_isas();
    const int32_t isa = argc < 4 ? -1 : isa_named(argv[1]);
    if (isa < 0 || !choose_places(argv[3])) {
        fprintf(stderr, "usage: %s instruction_set threads begin|end|apart|overrun [rule]\n", argv[0]);
        return 2;
    }
    fo_isa_use(isa);
    threads = atoi(argv[2]);
    make_pools();
    short_table = new_table(short_lengths, COUNT(short_lengths), at);
    long_table = new_table(long_lengths, COUNT(long_lengths), at);
    for (int i = 0; i < EVERY_LENGTH; i++)
        every_length[i] = i + 1;
    every_table = new_table(every_length, EVERY_LENGTH, at);
    values_room = room_for(MOST_VALUES * sizeof(double));
    results_room = room_for(MOST_VALUES * sizeof(double));
    short_histories = new_histories(short_table);
    long_histories = new_histories(long_table);
    if (strcmp(argv[3], "overrun") == 0)
        return try_guards();
    printf("keeps bits: %s\n", fo_isa_keeps_bits(isa) ? "yes" : "no");
    print_hashes(argc > 4 ? argv[4] : NULL);
    return 0;
}
