/* What of the C kernels can be tested without Python, for systems where they can be built but nothing else is at hand:
 * threads with barriers, memory, and on every instruction set that runs the layers and products against plain loops. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

enum { T = 5, N = 4, I = 7, H = 19, ROUNDS = 300 };

static int failures;

static void check(int right, const char *what, const char *of) {
    if (right) return;
    failures++;
    printf("%s: %s is wrong\n", of, what);
}

/* ---- threads: a sum that is right only if every part runs once, and every barrier holds */

typedef struct {
    fastrnn_watch watch;
    int parts;
    _Atomic int entered;
    int sums[FASTRNN_MOST_THREADS];
    int wrong;
} meeting;

static void meet(void *context, int part) {
    meeting *m = context;
    for (int round = 1; round <= ROUNDS; round++) {
        m->sums[part] = part * round;
        fastrnn_pool_barrier(m->parts, &m->watch);
        int sum = 0;
        for (int other = 0; other < m->parts; other++) sum += m->sums[other];
        if (sum != round * m->parts * (m->parts - 1) / 2) m->wrong = 1;
        fastrnn_pool_barrier(m->parts, &m->watch);
    }
    atomic_fetch_add(&m->entered, 1);
}

static void enter(void *context, int part) {
    (void)part;
    atomic_fetch_add(&((meeting *)context)->entered, 1);
}

static int stop_at_once(void) { return 1; }

static void wait_for_stop(void *context, int part) {
    meeting *m = context;
    (void)part;
    while (!fastrnn_stopped(&m->watch)) {}
    atomic_fetch_add(&m->entered, 1);
}

static void test_threads(void) {
    fastrnn_pool_watch_forks();
    for (int wanted = 1; wanted <= 4; wanted++) {
        static meeting m;
        memset(&m, 0, sizeof m);
        fastrnn_watch_start(&m.watch, NULL);
        m.parts = fastrnn_pool_acquire(wanted);
        check(m.parts >= 1 && m.parts <= wanted, "the number of threads", "pool");
        fastrnn_pool_run(meet, &m, m.parts, 1, &m.watch);
        check(!m.wrong && m.entered == m.parts, "a barrier", "pool");
        fastrnn_pool_run(enter, &m, 50, 0, &m.watch);
        check(m.entered == m.parts + 50, "the number of parts", "pool");
        fastrnn_watch_start(&m.watch, stop_at_once);
        fastrnn_pool_run(wait_for_stop, &m, m.parts, 1, &m.watch);
        check(m.entered == 2 * m.parts + 50, "a stop", "pool");
        if (m.parts > 1) fastrnn_pool_release();
    }
}

/* ---- memory */

static void test_memory(void) {
    static const size_t sizes[] = {0, 1, 63, 4096, FASTRNN_RECYCLED - 1, FASTRNN_RECYCLED, 3 << 20, 9 << 20, FASTRNN_KEPT + 1};
    fastrnn_memory_watch_forks();
    for (int again = 0; again < 3; again++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            unsigned char *block = fastrnn_take(sizes[i]);
            check(block && (uintptr_t)block % FASTRNN_LINE == 0, "a block", "memory");
            memset(block, 7, sizes[i]);
            block = fastrnn_retake(block, 2 * sizes[i] + 1);
            check(block && (!sizes[i] || (block[0] == 7 && block[sizes[i] - 1] == 7)), "what a larger block holds", "memory");
            fastrnn_give(block);
        }
    check(fastrnn_take((size_t)-1) == NULL, "a block larger than any memory", "memory");
}

/* ---- layers, in double, against plain loops */

static double random_number(void) {
    static uint64_t state = 1;
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(state >> 33) / (double)(UINT64_C(1) << 30) - 1;
}

static double *numbers(size_t count) {
    double *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = random_number();
    return values;
}

/* The values as floats where a precision is of such; memory that is never given back. */
static void *as(int precision, const double *values, size_t count) {
    double *exact = fastrnn_take(count * sizeof(double));
    float *rounded = (float *)exact;
    for (size_t i = 0; i < count; i++)
        if (precision == FASTRNN_F32)
            rounded[i] = (float)values[i];
        else
            exact[i] = values[i];
    return exact;
}

static double at(int precision, const void *values, size_t i) {
    return precision == FASTRNN_F32 ? ((const float *)values)[i] : ((const double *)values)[i];
}

static double sigmoid(double a) { return 1 / (1 + exp(-a)); }

/* y (T, N, H) := the layer, by the equations of fastrnn.cells. */
static void plain_layer(
    int cell, int gates, const double *x, const double *h_0, const double *c_0, const double *ih, const double *hh,
    const double *bias, double *y) {
    double c[N][H], a[4], b[4];
    memcpy(c, c_0, sizeof c);
    for (int t = 0; t < T; t++)
        for (int n = 0; n < N; n++) {
            const double *h = t ? y + ((t - 1) * N + n) * H : h_0 + n * H;
            for (int u = 0; u < H; u++) {
                for (int g = 0; g < gates; g++) {
                    a[g] = b[g] = bias[g * H + u];
                    for (int i = 0; i < I; i++) a[g] += x[(t * N + n) * I + i] * ih[(g * H + u) * I + i];
                    for (int k = 0; k < H; k++) b[g] += h[k] * hh[(g * H + u) * H + k];
                }
                double *out = y + (t * N + n) * H + u;
                if (cell == FASTRNN_RNN_TANH) {
                    *out = tanh(a[0] + b[0]);
                } else if (cell == FASTRNN_RNN_RELU) {
                    *out = fmax(a[0] + b[0], 0);
                } else if (cell == FASTRNN_LSTM) {
                    c[n][u] = sigmoid(a[1] + b[1]) * c[n][u] + sigmoid(a[0] + b[0]) * tanh(a[2] + b[2]);
                    *out = sigmoid(a[3] + b[3]) * tanh(c[n][u]);
                } else {
                    const double r = sigmoid(a[0] + b[0]), z = sigmoid(a[1] + b[1]), candidate = tanh(a[2] + r * b[2]);
                    *out = candidate + z * (h[u] - candidate);
                }
            }
        }
}

/* An LSTM as a program; each of its gates is a block of a group of four unit vectors. */
enum { IN = FASTRNN_AT_SLOT, FORGET, CANDIDATE, OUT, R = FASTRNN_AT_REGISTER, NEW = FASTRNN_AT_AFTER, OLD = FASTRNN_AT_BEFORE };
static const fastrnn_instruction equations[] = {
    {.op = FASTRNN_SIGMOID, .out = R, .a = IN},
    {.op = FASTRNN_TANH, .out = R + 1, .a = CANDIDATE},
    {.op = FASTRNN_MUL, .out = R, .a = R, .b = R + 1},
    {.op = FASTRNN_SIGMOID, .out = R + 1, .a = FORGET},
    {.op = FASTRNN_FMA, .out = NEW + 1, .a = R + 1, .b = OLD + 1, .c = R},
    {.op = FASTRNN_TANH, .out = R, .a = NEW + 1},
    {.op = FASTRNN_SIGMOID, .out = R + 1, .a = OUT},
    {.op = FASTRNN_MUL, .out = NEW, .a = R + 1, .b = R},
};
static const fastrnn_program program = {
    .units = 4, .blocks = 4, .slots = 4, .x_slots = 4, .h_slots = 4, .states = 2, .gates = 4, .registers = 2,
    .x_gates = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3}, .h_gates = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
    .forward = {equations, sizeof equations / sizeof *equations}};

static void test_layer(const fastrnn_kernels *kernels, int precision, int which, const char *isa) {
    static const char *const names[] = {"rnn_tanh", "rnn_relu", "lstm", "gru", "a program"};
    const int of_program = which == FASTRNN_PROGRAM, cell = of_program ? FASTRNN_LSTM : which;
    const int gates = cell == FASTRNN_LSTM ? 4 : cell == FASTRNN_GRU ? 3 : 1;
    const fastrnn_cell *its = &kernels->cells[which];
    const ptrdiff_t C = (H + kernels->lanes - 1) / kernels->lanes * kernels->lanes;
    const ptrdiff_t units = of_program ? program.units * kernels->lanes : its->block_units;
    const ptrdiff_t blocks = (H + units - 1) / units * (of_program ? program.blocks : 1);
    const double *x = numbers(T * N * I), *h_0 = numbers(N * H), *c_0 = numbers(N * H), *ih = numbers(gates * H * I),
                 *hh = numbers(gates * H * H), *bias = numbers(gates * H);
    double *y = malloc(T * N * H * sizeof *y), *c = calloc((size_t)(N * C), sizeof *c);
    for (int n = 0; n < N; n++) memcpy(c + n * C, c_0 + n * H, H * sizeof *c);
    plain_layer(cell, gates, x, h_0, c_0, ih, hh, bias, y);

    fastrnn_layer l = {.steps = T, .batch = N, .inputs = I, .hidden = H, .outputs = H, .rows = T * N, .y_row = H, .pairs = 1,
                       .program = of_program ? &program : NULL};
    fastrnn_sizes sizes;
    its->measure(&l, &sizes);
    l.panel_stride = sizes.panel;
    l.x = as(precision, x, T * N * I), l.h_0 = as(precision, h_0, N * H), l.c = as(precision, c, (size_t)(N * C));
    l.weight_ih = as(precision, ih, (size_t)(gates * H * I)), l.weight_hh = as(precision, hh, (size_t)(gates * H * H));
    l.bias_ih = l.bias_hh = as(precision, bias, (size_t)(gates * H));
    l.panels = fastrnn_take(sizeof(double) * (size_t)(blocks * sizes.panel));
    l.bias = fastrnn_take(sizeof(double) * (size_t)(blocks * 4 * kernels->lanes));
    l.y = fastrnn_take(T * N * H * sizeof(double));
    its->pack(&l, 0, blocks);
    for (int s = 0; s < T; s++) its->step(&l, s, 0, blocks, 0, N);

    double worst = 0;
    for (int i = 0; i < T * N * H; i++) {
        const double error = fabs(at(precision, l.y, (size_t)i) - y[i]);
        worst = error > worst || error != error ? error : worst;
    }
    check(worst < (precision == FASTRNN_F32 ? 2e-5 : 1e-13), names[which], isa);
}

static void test_product(const fastrnn_kernels *kernels, int precision, const char *isa) {
    enum { R = 13, K = 21, COLUMNS = 37 };
    const double *a = numbers(R * K), *b = numbers(K * COLUMNS), *bias = numbers(COLUMNS);
    const ptrdiff_t panels = (COLUMNS + 4 * kernels->lanes - 1) / (4 * kernels->lanes);
    fastrnn_product m = {
        .rows = R, .columns = COLUMNS, .K = K, .out_row = COLUMNS, .a_row = K, .a_k = 1, .b_k = COLUMNS, .b_column = 1};
    m.a = as(precision, a, R * K), m.b = as(precision, b, K * COLUMNS), m.bias = as(precision, bias, COLUMNS);
    m.out = fastrnn_take(R * COLUMNS * sizeof(double));
    m.panels = fastrnn_take(sizeof(double) * (size_t)(panels * K * 4 * kernels->lanes));
    kernels->pack_right(&m, 0, panels);
    kernels->multiply(&m, 0, panels, 0, R);
    int right = 1;
    for (int r = 0; r < R; r++)
        for (int column = 0; column < COLUMNS; column++) {
            double sum = bias[column];
            for (int k = 0; k < K; k++) sum += a[r * K + k] * b[k * COLUMNS + column];
            right &= fabs(at(precision, m.out, (size_t)(r * COLUMNS + column)) - sum) < (precision == FASTRNN_F32 ? 1e-5 : 1e-13);
        }
    check(right, "a product", isa);
}

/* Integers up to 127, which weights of fewer bits and rows of x hold exactly: so are their sums, which relu shows. */
static void test_narrow(const fastrnn_kernels *kernels, int precision, const char *isa) {
    const fastrnn_cell *its = &kernels->cells[FASTRNN_RNN_RELU];
    const ptrdiff_t blocks = (H + its->block_units - 1) / its->block_units;
    float *x = fastrnn_take(N * I * sizeof *x), *scales = fastrnn_take(H * sizeof *scales), *h_0 = fastrnn_take(N * H * sizeof *h_0);
    int8_t *ih = fastrnn_take(H * I), *hh = fastrnn_take(H * H);
    float *floats = fastrnn_take(H * I * sizeof *floats), *zeros = fastrnn_take(H * H * sizeof *zeros);
    memset(h_0, 0, N * H * sizeof *h_0);
    memset(hh, 0, H * H);
    memset(zeros, 0, H * H * sizeof *zeros);
    for (int i = 0; i < N * I; i++) x[i] = i % I ? (float)(int)(127 * random_number()) : 127;
    for (int i = 0; i < H * I; i++) {
        ih[i] = i % I ? (int8_t)(127 * random_number()) : -127;
        floats[i] = ih[i];
    }
    for (int u = 0; u < H; u++) scales[u] = 1;
    fastrnn_layer l = {.steps = 1, .batch = N, .inputs = I, .hidden = H, .outputs = H, .rows = N, .y_row = H, .pairs = 1,
                       .x = x, .h_0 = h_0, .scale_ih = scales, .scale_hh = scales};
    l.weight_ih = precision == FASTRNN_I8 ? (const void *)ih : floats;
    l.weight_hh = precision == FASTRNN_I8 ? (const void *)hh : zeros;
    fastrnn_sizes sizes;
    its->measure(&l, &sizes);
    l.panel_stride = sizes.panel;
    l.panels = fastrnn_take(sizeof(float) * (size_t)(blocks * sizes.panel));
    l.bias = fastrnn_take(sizeof(float) * (size_t)(blocks * 4 * kernels->lanes));
    l.scales = fastrnn_take(sizeof(float) * (size_t)(blocks * sizes.scales));
    l.scratch = fastrnn_take(sizeof(float) * (size_t)(N * sizes.left_row));
    float *y = l.y = fastrnn_take(N * H * sizeof *y);
    its->pack(&l, 0, blocks);
    its->step(&l, 0, 0, blocks, 0, N);
    int right = 1;
    for (int n = 0; n < N; n++)
        for (int u = 0; u < H; u++) {
            float sum = 0;
            for (int i = 0; i < I; i++) sum += x[n * I + i] * ih[u * I + i];
            right &= y[n * H + u] == fmaxf(sum, 0);
        }
    check(right, precision == FASTRNN_I8 ? "int8 weights" : "bfloat16 weights", isa);
}

int main(void) {
    test_threads();
    test_memory();
    int tested = 0;
    for (int isa = 0; fastrnn_isa_names[isa]; isa++) {
        if (!fastrnn_isa_runs(isa)) continue;
        for (int precision = FASTRNN_F32; precision <= FASTRNN_F64; precision++) {
            const fastrnn_kernels *kernels = fastrnn_kernel_table(isa, precision);
            for (int cell = 0; cell < FASTRNN_CELLS; cell++) test_layer(kernels, precision, cell, fastrnn_isa_names[isa]);
            test_product(kernels, precision, fastrnn_isa_names[isa]);
        }
        printf("%s tested\n", fastrnn_isa_names[isa]);
        tested++;
    }
    for (int isa = 0; fastrnn_isa_names[isa]; isa++)
        for (int precision = FASTRNN_BF16; fastrnn_isa_runs(isa) && precision <= FASTRNN_I8; precision++)
            test_narrow(fastrnn_kernel_table(isa, precision), precision, fastrnn_isa_names[isa]);
    printf("%d instruction sets, %d failures\n", tested, failures);
    return failures || !tested;
}
