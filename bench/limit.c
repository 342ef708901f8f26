/* The limits: the reads and writes of a step, and next to no arithmetic.
 *
 * Of an optimizer's step:
 * `written` arrays (the parameter, the slots) are read and written, the gradient is read; with `norm` it is read once
 * more before that; with `write_grads` it is written too. x - y keeps the numbers bounded and free of denormals. */
#include <stddef.h>

typedef struct {
    float *grad, *array[5];
    ptrdiff_t length;
} Chunk;

static inline __attribute__((always_inline)) void sweep(const Chunk *c, const int written, const int write_grads)
{
    float *restrict g = c->grad, *restrict p = c->array[0], *restrict q = c->array[1], *restrict r = c->array[2],
                    *restrict s = c->array[3], *restrict t = c->array[4];
#pragma omp simd
    for (ptrdiff_t i = 0; i < c->length; i++) {
        float x = g[i];
        if (written > 0)
            p[i] = x - p[i];
        if (written > 1)
            q[i] = x - q[i];
        if (written > 2)
            r[i] = x - r[i];
        if (written > 3)
            s[i] = x - s[i];
        if (written > 4)
            t[i] = x - t[i];
        if (write_grads)
            g[i] = 1.0f - x;
    }
}

static void sweep_any(const Chunk *c, int written, int write_grads)
{
    /* constants, so that each case is a loop of its own */
    switch (2 * written + write_grads) {
    case 1:
        sweep(c, 0, 1);
        break;
    case 2:
        sweep(c, 1, 0);
        break;
    case 3:
        sweep(c, 1, 1);
        break;
    case 4:
        sweep(c, 2, 0);
        break;
    case 5:
        sweep(c, 2, 1);
        break;
    case 6:
        sweep(c, 3, 0);
        break;
    case 7:
        sweep(c, 3, 1);
        break;
    case 8:
        sweep(c, 4, 0);
        break;
    case 9:
        sweep(c, 4, 1);
        break;
    case 10:
        sweep(c, 5, 0);
        break;
    case 11:
        sweep(c, 5, 1);
        break;
    }
}

static float sum(const float *g, ptrdiff_t length)
{
    float lanes[32] = {0}; /* enough independent sums to hide the latency of an addition, without fast-math */
    ptrdiff_t i = 0;
    for (; i + 32 <= length; i += 32)
        for (int j = 0; j < 32; j++)
            lanes[j] += g[i + j];
    for (; i < length; i++)
        lanes[i % 32] += g[i];
    for (int width = 16; width; width /= 2)
        for (int j = 0; j < width; j++)
            lanes[j] += lanes[j + width];
    return lanes[0];
}

/* One region, a static split over the chunks of all arrays; `parallel` is 0 where a region costs more than it saves.
 * Returns the sum of the gradients, if asked for: a loop whose result nobody sees would be removed. */
float limit(const Chunk *chunks, ptrdiff_t count, int written, int norm, int write_grads, int threads, int parallel)
{
    float total = 0;
#pragma omp parallel num_threads(threads) if (parallel)
    {
        if (norm) {
#pragma omp for schedule(static) reduction(+ : total)
            for (ptrdiff_t i = 0; i < count; i++)
                total += sum(chunks[i].grad, chunks[i].length);
        }
        if (written || write_grads) {
#pragma omp for schedule(static)
            for (ptrdiff_t i = 0; i < count; i++)
                sweep_any(&chunks[i], written, write_grads);
        }
    }
    return total;
}

typedef double vector __attribute__((vector_size(64)));
enum { WIDTH = 8, AT_ONCE = 8, PIECE = 4096 }; /* doubles in a vector, vectors in flight, doubles of a thread's piece */

static double sum_piece(const double *words)
{
    vector sums[AT_ONCE] = {{0}}, total = {0};
    for (ptrdiff_t i = 0; i < PIECE; i += WIDTH * AT_ONCE)
#pragma GCC unroll 8
        for (int k = 0; k < AT_ONCE; k++)
            sums[k] += *(const vector *)(words + i + WIDTH * k);
    for (int k = 0; k < AT_ONCE; k++)
        total += sums[k];
    return total[0] + total[WIDTH - 1];
}

/* Of L-BFGS: reads these pieces, which are aligned, and writes nothing. */
double read_pieces(const double *words, ptrdiff_t count, int threads, int parallel)
{
    double total = 0;
#pragma omp parallel for num_threads(threads) if (parallel) schedule(static) reduction(+ : total)
    for (ptrdiff_t i = 0; i < count; i++)
        total += sum_piece(words + i * PIECE);
    return total;
}

/* Of dense BFGS: reads and writes them. */
void update_pieces(double *words, ptrdiff_t count, int threads, int parallel)
{
#pragma omp parallel for num_threads(threads) if (parallel) schedule(static)
    for (ptrdiff_t i = 0; i < count; i++)
#pragma omp simd
        for (ptrdiff_t k = 0; k < PIECE; k++)
            words[i * PIECE + k] = 1.0 - words[i * PIECE + k];
}
