/* The matrix unit's instructions in plain C, for tests on CPUs without it, under sanitizers, and for coverage: built with
 * -DFASTRNN_EMULATED_TILES, `amx` runs wherever AVX-512 does. Sums are made as Intel describes them: even and odd terms
 * on their own, fused, k ascending, and then both together. */
typedef union {
    float f[16][16];
    uint32_t u[16][16];
} emulated_tile;
static _Thread_local emulated_tile emulated[8];
static _Thread_local uint8_t emulated_rows[8];

static void emulated_load(int tile, const void *at, ptrdiff_t stride) {
    memset(emulated + tile, 0, sizeof(emulated_tile));
    for (ptrdiff_t r = 0; r < emulated_rows[tile]; r++) memcpy(emulated[tile].u[r], (const char *)at + r * stride, 64);
}

static void emulated_store(int tile, void *at, ptrdiff_t stride) {
    for (ptrdiff_t r = 0; r < emulated_rows[tile]; r++) memcpy((char *)at + r * stride, emulated[tile].u[r], 64);
}

static float emulated_float(uint32_t upper_half) {
    float a;
    memcpy(&a, &upper_half, sizeof(a));
    return a;
}

static void emulated_multiply(int out, int left, int right) {
    for (int r = 0; r < emulated_rows[left]; r++)
        for (int c = 0; c < 16; c++) {
            float even = 0, odd = 0;
            for (int k = 0; k < 16; k++) {
                const uint32_t a = emulated[left].u[r][k], b = emulated[right].u[k][c];
                even = __builtin_fmaf(emulated_float(a << 16), emulated_float(b << 16), even);
                odd = __builtin_fmaf(emulated_float(a & 0xffff0000), emulated_float(b & 0xffff0000), odd);
            }
            emulated[out].f[r][c] += even + odd;
        }
}

#define UNIT_CONFIGURE(tiles) memcpy(emulated_rows, (tiles).rows, sizeof(emulated_rows))
#define UNIT_RELEASE() memset(emulated_rows, 0, sizeof(emulated_rows))
#define UNIT_LOAD(tile, at, row) emulated_load(tile, at, (row) * (ptrdiff_t)REAL_BYTES)
#define UNIT_STORE(tile, at, row) emulated_store(tile, at, (row) * (ptrdiff_t)REAL_BYTES)
#define UNIT_MULTIPLY(out, left, right) emulated_multiply(out, left, right)
