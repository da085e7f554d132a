/* The matrix unit's instructions by others, for tests on CPUs without it, under sanitizers, and for coverage: built with
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

static void emulated_multiply(int out, int left, int right) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    const emulated_tile *by = emulated + right;
    for (int r = 0; r < emulated_rows[left]; r++) {
        const uint32_t *a = emulated[left].u[r];
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (int k = 0; k < 16; k++) {
            const __m512i a_k = _mm512_set1_epi32((int)a[k]), b_k = _mm512_loadu_si512(by->u[k]);
            even = _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_slli_epi32(a_k, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b_k, 16)), even);
            odd = _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_and_si512(a_k, upper)), _mm512_castsi512_ps(_mm512_and_si512(b_k, upper)), odd);
        }
        float *sum = emulated[out].f[r];
        _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), _mm512_add_ps(even, odd)));
    }
}

#define UNIT_CONFIGURE(tiles) memcpy(emulated_rows, (tiles).rows, sizeof(emulated_rows))
#define UNIT_RELEASE() memset(emulated_rows, 0, sizeof(emulated_rows))
#define UNIT_LOAD(tile, at, row) emulated_load(tile, at, (row) * (ptrdiff_t)REAL_BYTES)
#define UNIT_STORE(tile, at, row) emulated_store(tile, at, (row) * (ptrdiff_t)REAL_BYTES)
#define UNIT_MULTIPLY(out, left, right) emulated_multiply(out, left, right)
