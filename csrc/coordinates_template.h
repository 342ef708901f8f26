/* Sparse coding by coordinate descent, for one dtype and one instruction set. fastopt/backends/numpy/coordinates.py is
   the twin.

   A row's codes h minimize |y - D'h|^2 / 2 + l1 |h|_1 + l2 |h|^2 / 2. Atoms come into use when their correlation with
   the residual, q = D (y - D'h), is large. Sweeps then minimize over one atom in use after the other, with p, their part
   of q, and their part of the Gram matrix, both of which stay in the cache. Where a few sweeps are not enough, a jump
   goes to the best codes with the present signs. In between, all of q is computed anew from h, which gives the duality
   gap and the next atoms.

   kernels_template.h includes this file. This template expects:
     REAL         float or double
     ABSOLUTE(x)  the magnitude in that type
     NAME(x)      x with a suffix for this type */

/* Elements of a cache line. */
#define STEP (64 / (int)sizeof(REAL))

#define LANE NAME(lane)

/* One row of the problem, while it is solved. Atoms in use are numbered in the order in which they came into use. */
typedef struct {
    int64_t row;    /* its number; -1: none */
    int64_t count;  /* how many atoms are in use */
    int32_t sweeps; /* how many were made */
    int32_t limit;  /* after so many sweeps all atoms are looked at again */
    int32_t is_new; /* 1: no code has changed since all atoms were looked at */
    double square;  /* y'y */
    REAL target;    /* sweeps end when no violation is above this */
    const REAL *c;  /* D y */
    REAL *q;        /* D (y - D'h) */
    REAL *p;        /* that of the atoms in use, at `places`; q itself if they are more than CODING_COMPACT */
    int64_t length; /* of p, and of the rows of the Gram matrix that belong to it */
    REAL *compact;  /* CODING_COMPACT elements for p, and the Gram matrix of that many atoms */
    double *jump;   /* memory of jump(): a matrix and a vector of CODING_COMPACT rows */
    /* For each atom in use: its code, diagonal element of the Gram matrix, inverse (fo_coding), diagonal element + l2; a
       number for the meantime. */
    REAL *h, *diagonal, *inverse, *weight, *coefficients;
    const REAL **gram, **rows; /* its row of the Gram matrix: the one that belongs to p; the whole one */
    int64_t *atoms, *places;   /* its number among all atoms; its place in p */
} LANE;

/* out[i] += the products of the coefficients and rows[..][i], in the order of the rows. */
static void NAME(add_products)(REAL *restrict out, const REAL *coefficients, const REAL *const *rows, int64_t count,
                               int64_t length)
{
    int64_t s = 0;
    for (; s + 4 <= count; s += 4) {
        const REAL *restrict a = rows[s], *restrict b = rows[s + 1], *restrict c = rows[s + 2],
                             *restrict d = rows[s + 3];
        const REAL of_a = coefficients[s], of_b = coefficients[s + 1], of_c = coefficients[s + 2],
                   of_d = coefficients[s + 3];
        FO_SIMD
        for (int64_t i = 0; i < length; i++)
            out[i] = (((out[i] + of_a * a[i]) + of_b * b[i]) + of_c * c[i]) + of_d * d[i];
    }
    for (; s < count; s++) {
        const REAL *restrict a = rows[s];
        const REAL of_a = coefficients[s];
        FO_SIMD
        for (int64_t i = 0; i < length; i++)
            out[i] += of_a * a[i];
    }
}

/* The products of two rows with `width` columns of the dictionary, in double precision, in the order of the features. */
static void NAME(multiply_pair)(const REAL *restrict x, const REAL *restrict y, const double *dictionary,
                                int64_t features, int64_t stride, int64_t width, double *restrict x_sums,
                                double *restrict y_sums)
{
    memset(x_sums, 0, (size_t)width * sizeof(double));
    memset(y_sums, 0, (size_t)width * sizeof(double));
    int64_t f = 0;
    for (; f + 4 <= features; f += 4) {
        const double *restrict a = dictionary + f * stride, *restrict b = a + stride, *restrict c = b + stride,
                               *restrict d = c + stride;
        const double x_a = x[f], x_b = x[f + 1], x_c = x[f + 2], x_d = x[f + 3];
        const double y_a = y[f], y_b = y[f + 1], y_c = y[f + 2], y_d = y[f + 3];
        FO_SIMD
        for (int64_t i = 0; i < width; i++) {
            x_sums[i] = (((x_sums[i] + x_a * a[i]) + x_b * b[i]) + x_c * c[i]) + x_d * d[i];
            y_sums[i] = (((y_sums[i] + y_a * a[i]) + y_b * b[i]) + y_c * c[i]) + y_d * d[i];
        }
    }
    for (; f < features; f++) {
        const double *restrict a = dictionary + f * stride;
        const double x_a = x[f], y_a = y[f];
        FO_SIMD
        for (int64_t i = 0; i < width; i++) {
            x_sums[i] += x_a * a[i];
            y_sums[i] += y_a * a[i];
        }
    }
}

static void NAME(round_sums)(const double *restrict sums, int64_t length, REAL *restrict out)
{
    FO_SIMD
    for (int64_t i = 0; i < length; i++)
        out[i] = (REAL)sums[i];
}

/* products[row][..] <- the products of rows [begin, end) with the dictionary. `sums` has room for two rows of them. */
static void NAME(multiply_rows)(const fo_coding *coding, int64_t begin, int64_t end, void *products, double *sums)
{
    const int64_t features = coding->features, stride = coding->stride;
    const REAL *rows = coding->rows;
    REAL *out = products;
    const int64_t fitting = CODING_CACHE / (features + 1) / FO_LANES * FO_LANES;
    const int64_t wanted = fitting < 4 * FO_LANES ? 4 * FO_LANES : fitting, block = wanted < stride ? wanted : stride;
    for (int64_t k = 0; k < stride; k += block) {
        const int64_t width = stride - k < block ? stride - k : block;
        for (int64_t row = begin; row < end; row += 2) {
            const int64_t other = row + 1 < end ? row + 1 : row;
            NAME(multiply_pair)(rows + row * features, rows + other * features, coding->dictionary + k, features,
                                stride, width, sums, sums + block);
            NAME(round_sums)(sums, width, out + (row - begin) * stride + k);
            NAME(round_sums)(sums + block, width, out + (other - begin) * stride + k);
        }
    }
}

/* Take one more atom into use; q is its correlation. */
static void NAME(use_atom)(const fo_coding *coding, LANE *lane, int64_t atom, REAL h, REAL q)
{
    const int64_t s = lane->count++;
    const REAL *gram = (const REAL *)coding->gram + atom * coding->stride;
    lane->atoms[s] = atom;
    lane->rows[s] = gram;
    lane->h[s] = h;
    lane->diagonal[s] = gram[atom];
    lane->inverse[s] = ((const REAL *)coding->inverse)[atom];
    lane->weight[s] = gram[atom] + (REAL)coding->l2;
    if (s < CODING_COMPACT) {
        REAL *matrix = lane->compact + CODING_COMPACT;
        lane->compact[s] = q;
        for (int64_t t = 0; t <= s; t++)
            matrix[s * CODING_COMPACT + t] = matrix[t * CODING_COMPACT + s] = gram[lane->atoms[t]];
    }
}

/* Point p and the rows of the Gram matrix to the compact ones if these have room for the atoms in use. */
static void NAME(choose_gram)(const fo_coding *coding, LANE *lane)
{
    const int is_compact = lane->count <= CODING_COMPACT;
    lane->p = is_compact ? lane->compact : lane->q;
    lane->length = is_compact ? (lane->count + STEP - 1) / STEP * STEP : coding->stride;
    for (int64_t s = 0; s < lane->count; s++) {
        lane->places[s] = is_compact ? s : lane->atoms[s];
        lane->gram[s] = is_compact ? lane->compact + (s + 1) * CODING_COMPACT : lane->rows[s];
    }
}

/* Minimize over atom s of those in use; return by how much that changes its correlation. */
static inline REAL NAME(minimize_over_atom)(LANE *lane, int64_t s, REAL l1, REAL negative_l1)
{
    REAL *restrict p = lane->p;
    const REAL *restrict gram = lane->gram[s];
    const REAL h = lane->h[s], alone = p[lane->places[s]] + lane->diagonal[s] * h;
    const REAL above = alone - l1, below = alone + negative_l1;
    const REAL best = ((above > 0 ? above : 0) + (below < 0 ? below : 0)) * lane->inverse[s];
    const REAL change = best - h;
    const int64_t length = lane->length;
    lane->h[s] = best;
    for (int64_t i = 0; i < length; i += STEP) {
        FO_SIMD
        for (int k = 0; k < STEP; k++)
            p[i + k] -= change * gram[i + k];
    }
    return ABSOLUTE(change * lane->weight[s]);
}

/* Factor the matrix A = U'U of `count` rows, of which the upper part is given, and gets U. A row that depends on those
   before it, nearly, is left out: 0 is on its diagonal. */
static void NAME(factor)(double *matrix, int64_t count)
{
    double least[CODING_COMPACT];
    for (int64_t k = 0; k < count; k++)
        least[k] = CODING_PIVOT * matrix[k * CODING_COMPACT + k];
    for (int64_t k = 0; k < count; k++) {
        double *restrict u = matrix + k * CODING_COMPACT;
        if (!(u[k] > least[k])) {
            u[k] = 0;
            continue;
        }
        const double root = sqrt(u[k]);
        FO_SIMD
        for (int64_t i = k; i < count; i++)
            u[i] /= root;
        for (int64_t j = k + 1; j < count; j++) {
            double *restrict row = matrix + j * CODING_COMPACT;
            const double factor = u[j];
            FO_SIMD
            for (int64_t i = j; i < count; i++)
                row[i] -= factor * u[i];
        }
    }
}

/* Solve U'U x = b; x takes the place of b, and is 0 where a row is left out. */
static void NAME(solve)(const double *matrix, int64_t count, double *restrict b)
{
    for (int64_t k = 0; k < count; k++) {
        const double *restrict u = matrix + k * CODING_COMPACT;
        const double x = b[k] = u[k] > 0 ? b[k] / u[k] : 0;
        FO_SIMD
        for (int64_t i = k + 1; i < count; i++)
            b[i] -= x * u[i];
    }
    for (int64_t k = count - 1; k >= 0; k--) {
        const double pivot = matrix[k * CODING_COMPACT + k], x = b[k] = pivot > 0 ? b[k] / pivot : 0;
        for (int64_t i = 0; i < k; i++)
            b[i] -= x * matrix[i * CODING_COMPACT + k];
    }
}

/* Go to the codes that are the best ones with the present signs, and zeros where they are, or on the way there to where
   the first code becomes 0. The objective is quadratic there, and falls. */
static void NAME(jump)(const fo_coding *coding, LANE *lane)
{
    const double l1 = coding->l1, l2 = coding->l2;
    double *matrix = lane->jump, *move = matrix + CODING_COMPACT * CODING_COMPACT, part = 1;
    int64_t used[CODING_COMPACT], count = 0;
    for (int64_t s = 0; s < lane->count; s++)
        if (lane->h[s] != 0) {
            if (count == CODING_COMPACT)
                return;
            used[count++] = s;
        }
    for (int64_t i = 0; i < count; i++) {
        const int64_t s = used[i];
        const double h = (double)lane->h[s];
        for (int64_t j = i; j < count; j++)
            matrix[i * CODING_COMPACT + j] = (double)lane->rows[s][lane->atoms[used[j]]];
        matrix[i * CODING_COMPACT + i] += l2;
        move[i] = (double)lane->p[lane->places[s]] - l2 * h - (h > 0 ? l1 : -l1);
    }
    NAME(factor)(matrix, count);
    NAME(solve)(matrix, count, move);
    for (int64_t i = 0; i < count; i++) {
        const double h = (double)lane->h[used[i]], next = h + move[i];
        const double crossing = (next > 0) == (h > 0) ? 1 : h / (h - next);
        part = part < crossing ? part : crossing;
    }
    for (int64_t i = 0; i < count; i++) {
        const double h = (double)lane->h[used[i]], next = h + part * move[i];
        const int is_first = (h + move[i] > 0) != (h > 0) && h / (h - (h + move[i])) <= part;
        lane->h[used[i]] = is_first || (next > 0) != (h > 0) ? 0 : (REAL)next;
    }
    lane->is_new = 0;
}

/* The greatest of q, or with `sign` -1 of |q|. */
static REAL NAME(largest_of)(const REAL *restrict q, int64_t length, REAL sign)
{
    REAL lanes[FO_LANES] = {0}, largest = 0;
    for (int64_t i = 0; i < length; i += FO_LANES) {
        FO_SIMD
        for (int k = 0; k < FO_LANES; k++) {
            const REAL value = q[i + k], other = value * sign, size = value > other ? value : other;
            lanes[k] = lanes[k] > size ? lanes[k] : size;
        }
    }
    for (int k = 0; k < FO_LANES; k++)
        largest = largest > lanes[k] ? largest : lanes[k];
    return largest;
}

static void NAME(finish_row)(const fo_coding *coding, LANE *lane, double gap)
{
    REAL *codes = (REAL *)coding->codes + lane->row * coding->atoms;
    memset(codes, 0, (size_t)coding->atoms * sizeof(REAL));
    for (int64_t s = 0; s < lane->count; s++)
        codes[lane->atoms[s]] = lane->h[s];
    coding->gaps[lane->row] = gap;
    lane->row = -1;
}

/* Look at all atoms: finish the row and return 1 if its gap is small enough, else take more atoms into use. */
static int NAME(look)(const fo_coding *coding, LANE *lane)
{
    const int64_t stride = coding->stride, count = lane->count;
    const REAL l1 = (REAL)coding->l1, l2 = (REAL)coding->l2, sign = coding->positive ? 0 : -1;
    const REAL *c = lane->c;
    REAL *q = lane->q;
    int64_t nonzeros = 0;
    for (int64_t s = 0; s < count; s++) {
        lane->coefficients[nonzeros] = -lane->h[s];
        lane->gram[nonzeros] = lane->rows[s];
        nonzeros += lane->h[s] != 0;
    }
    memcpy(q, c, (size_t)stride * sizeof(REAL));
    NAME(add_products)(q, lane->coefficients, lane->gram, nonzeros, stride);

    double hc = 0, hq = 0, h_sum = 0, h_square = 0;
    REAL used = 0;
    for (int64_t s = 0; s < count; s++) {
        const REAL h = lane->h[s], p = q[lane->atoms[s]];
        const REAL value = p - l2 * h, other = value * sign, size = value > other ? value : other;
        hc += (double)h * (double)c[lane->atoms[s]];
        hq += (double)h * (double)p;
        h_sum += (double)ABSOLUTE(h);
        h_square += (double)h * (double)h;
        used = used > size ? used : size;
        lane->coefficients[s] = p;
        q[lane->atoms[s]] = 0;
    }
    const REAL unused = NAME(largest_of)(q, stride, sign);
    const double largest = (double)(used > unused ? used : unused), allowed = coding->tolerance * lane->square;
    const double scale = largest > coding->l1 ? coding->l1 / largest : 1;
    const double residual = lane->square - hc - hq; /* |y - D'h|^2 */
    if (count > 0 && lane->sweeps == 0) {
        const double objective = 0.5 * ((residual > 0 ? residual : 0) + coding->l2 * h_square) + coding->l1 * h_sum;
        if (!(objective <= 0.5 * lane->square)) { /* the start is worse than zeros; far away even rounding would show */
            lane->count = 0;
            return NAME(look)(coding, lane);
        }
    }
    const double gap = 0.5 * (1 + scale * scale) * (residual + coding->l2 * h_square) + coding->l1 * h_sum -
                       scale * (lane->square - hc);
    if (gap <= allowed || (lane->is_new && lane->sweeps > 0 && unused <= l1)) {
        NAME(finish_row)(coding, lane, 0);
        return 1;
    }
    if (lane->sweeps >= coding->max_iterations) {
        NAME(finish_row)(coding, lane, gap / lane->square);
        return 1;
    }

    for (int64_t s = 0; s < count && s < CODING_COMPACT; s++)
        lane->compact[s] = lane->coefficients[s];
    const REAL entry = l1 + (REAL)CODING_ENTRY * (unused - l1);
    for (int64_t i = 0; unused > l1 && i < coding->atoms; i++) {
        const REAL other = q[i] * sign, size = q[i] > other ? q[i] : other;
        if (size > entry || size == unused)
            NAME(use_atom)(coding, lane, i, 0, q[i]);
    }
    for (int64_t s = 0; s < count; s++)
        q[lane->atoms[s]] = lane->coefficients[s];
    NAME(choose_gram)(coding, lane);
    const double coarse = unused > l1 ? CODING_COARSE * (double)(unused - l1) : 0;
    const double fine = h_sum > 0 ? CODING_FINE * allowed / h_sum : 0;
    lane->target = (REAL)(coarse > fine ? coarse : fine);
    lane->limit =
        coding->max_iterations - lane->sweeps < CODING_SWEEPS ? coding->max_iterations : lane->sweeps + CODING_SWEEPS;
    lane->is_new = 1;
    return 0;
}

static void NAME(begin_row)(const fo_coding *coding, LANE *lane, int64_t row, const REAL *c)
{
    const REAL *start = (const REAL *)coding->codes + row * coding->atoms;
    lane->row = row;
    lane->count = 0;
    lane->sweeps = 0;
    lane->c = c;
    lane->square = NAME(sum_squares_run)((const REAL *)coding->rows + row * coding->features, coding->features);
    for (int64_t i = 0; lane->square > 0 && i < coding->atoms; i++)
        if (start[i] != 0)
            NAME(use_atom)(coding, lane, i, start[i], 0);
}

/* The rows that a thread has taken. */
typedef struct {
    int64_t begin, next, end;
    const REAL *c; /* D y of each */
} NAME(batch);

/* Have a lane ready for a sweep, with the next row if its own is done; return 0 if there is none. */
static int NAME(is_ready)(const fo_coding *coding, LANE *lane, NAME(batch) * batch)
{
    for (;;) {
        if (lane->row < 0) {
            if (batch->next == batch->end)
                return 0;
            NAME(begin_row)(coding, lane, batch->next, batch->c + (batch->next - batch->begin) * coding->stride);
            batch->next++;
        }
        if (!NAME(look)(coding, lane))
            return 1;
    }
}

/* Sweep once over the atoms in use of all lanes. */
static void NAME(sweep)(LANE *const *lanes, int live, REAL l1, REAL negative_l1, REAL *largest)
{
    int64_t together = 0;
    if (live == CODING_LANES) {
        LANE *first = lanes[0], *second = lanes[1];
        REAL of_first = 0, of_second = 0;
        const int64_t least = first->count < second->count ? first->count : second->count;
        for (; together < least; together++) {
            const REAL a = NAME(minimize_over_atom)(first, together, l1, negative_l1);
            const REAL b = NAME(minimize_over_atom)(second, together, l1, negative_l1);
            of_first = of_first > a ? of_first : a;
            of_second = of_second > b ? of_second : b;
        }
        largest[0] = of_first;
        largest[1] = of_second;
    }
    for (int k = 0; k < live; k++)
        for (int64_t s = together; s < lanes[k]->count; s++) {
            const REAL change = NAME(minimize_over_atom)(lanes[k], s, l1, negative_l1);
            largest[k] = largest[k] > change ? largest[k] : change;
        }
}

/* Divide scratch memory among the lanes; return the rest. */
static REAL *NAME(set_up_lane)(LANE *lane, REAL *memory, int64_t stride)
{
    REAL **const parts[] = {&lane->q, &lane->h, &lane->diagonal, &lane->inverse, &lane->weight, &lane->coefficients};
    lane->row = -1;
    for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++, memory += stride)
        *parts[k] = memory;
    lane->compact = memory;
    memory += CODING_COMPACT * (CODING_COMPACT + 1);
    const int64_t words = stride * (int64_t)(sizeof(int64_t) / sizeof(REAL));
    lane->gram = (const REAL **)memory;
    lane->rows = (const REAL **)(memory + words);
    lane->atoms = (int64_t *)(memory + 2 * words);
    lane->places = (int64_t *)(memory + 3 * words);
    return memory + 4 * words;
}

static void NAME(code_rows)(const fo_coding *coding, int64_t begin, int64_t end, void *scratch)
{
    const int64_t stride = coding->stride;
    const REAL l1 = (REAL)coding->l1, negative_l1 = coding->positive ? (REAL)INFINITY : l1;
    double *sums = scratch, *jumps = sums + 2 * stride;
    REAL *c = (REAL *)(jumps + CODING_LANES * CODING_JUMP), *memory = c + CODING_ROWS * stride;
    LANE lanes[CODING_LANES], *live[CODING_LANES];
    NAME(batch) batch = {begin, begin, end, c};
    int count = 0;
    NAME(multiply_rows)(coding, begin, end, c, sums);
    for (int k = 0; k < CODING_LANES; k++) {
        memory = NAME(set_up_lane)(&lanes[k], memory, stride);
        lanes[k].jump = jumps + k * CODING_JUMP;
        if (NAME(is_ready)(coding, &lanes[k], &batch))
            live[count++] = &lanes[k];
    }
    while (count > 0) {
        REAL largest[CODING_LANES] = {0};
        NAME(sweep)(live, count, l1, negative_l1, largest);
        const int swept = count;
        count = 0;
        for (int k = 0; k < swept; k++) {
            LANE *lane = live[k];
            lane->is_new &= largest[k] == 0;
            lane->sweeps++;
            const int is_flat = largest[k] <= lane->target, goes_on = !is_flat && lane->sweeps < lane->limit;
            if (!is_flat && !goes_on && largest[k] > coding->jump_above)
                NAME(jump)(coding, lane);
            if (goes_on || NAME(is_ready)(coding, lane, &batch))
                live[count++] = lane;
        }
    }
}

#undef LANE
#undef STEP
