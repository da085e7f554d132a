/* What the C kernels offer to the Cython driver: one table of functions per precision and instruction set.
 *
 * Letters: T steps, N batch, R rows of all steps, I inputs, H hidden units, P outputs (columns of h: H unless it is
 * projected), G gates, L lanes of a vector. A row is one (t, n): t * N + n, or offsets[t] + n where sequences differ in
 * length. Steps are counted in the order in which forward takes them: see steps.h.
 * "Unit vector" q means hidden units q*L .. q*L + L-1. A block has four vectors ("slots") per row:
 *
 *   lstm  one unit vector, slots i, f, g, o
 *   gru   one unit vector, slots n_x, r, z, n_h: the input product feeds slots 0-2, the recurrent one slots 1-3
 *   rnn   four unit vectors
 *
 * A cell that is a program (see fastrnn.cells.program) has a "group" of unit vectors, four unless H is small, in as many
 * blocks as it has slots: vector u of the group's slot j is vector j * units + u of them, so that every product fills whole
 * tiles. The last group may end beyond H.
 *
 * Z, the tape, is [block][row][4 * L]. Step by step it holds the projected input (when `projected`), the activated
 * gates, and, once the backward step has run, the gradients of the pre-activations, all in place.
 */
#ifndef FASTRNN_KERNELS_H
#define FASTRNN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "pool.h"

enum { FASTRNN_RNN_TANH, FASTRNN_RNN_RELU, FASTRNN_LSTM, FASTRNN_GRU, FASTRNN_PROGRAM, FASTRNN_CELLS };
enum { FASTRNN_FEW_ROWS = 16, FASTRNN_GRADIENT_ROWS = 128 };
enum { FASTRNN_ROWS_IN_TURNS = 4 };  /* layers of a group whose single rows are run in turns, at the most */
enum { FASTRNN_ROW_VECTORS = 24 };   /* unit vectors of a layer that takes the steps of a single row at once, at the most */
enum { FASTRNN_CHUNKS_TO_LOOK = 8 }; /* after so many of these rows the gradients of weights ask whether to stop */
enum { FASTRNN_LEFT_ROWS = 48 };     /* of x that are projected at once where weights have fewer bits */
/* The last two are of weights; all else is float then. They have no programs, and the last one only what inference needs. */
enum { FASTRNN_F32, FASTRNN_F64, FASTRNN_BF16, FASTRNN_I8, FASTRNN_PRECISIONS };

/* The operations of a cell's program, by the numbers of fastrnn.cells.program.Op, which says what each of them does. */
enum {
    FASTRNN_COPY, FASTRNN_ADD, FASTRNN_SUB, FASTRNN_MUL, FASTRNN_DIV, FASTRNN_FMA, FASTRNN_FNMA, FASTRNN_NEG, FASTRNN_ABS,
    FASTRNN_MIN, FASTRNN_MAX, FASTRNN_SQRT, FASTRNN_EXP, FASTRNN_EXPM1, FASTRNN_LOG, FASTRNN_LOG1P, FASTRNN_SIN,
    FASTRNN_COS, FASTRNN_ERF, FASTRNN_SIGMOID, FASTRNN_TANH, FASTRNN_RELU, FASTRNN_LESS, FASTRNN_LESS_EQUAL,
    FASTRNN_EQUAL, FASTRNN_SELECT, FASTRNN_LERP, FASTRNN_SIGMOID_BACK, FASTRNN_TANH_BACK,
    /* And two at once, which the driver makes of one that only the next one reads. The first is on d, e and c, and is a of
     * the second; of the last three, which end in a multiply-add, its c. */
    FASTRNN_ADD_ADD, FASTRNN_SUB_MUL, FASTRNN_MUL_MUL, FASTRNN_MUL_FMA, FASTRNN_MUL_FNMA, FASTRNN_MUL_SIGMOID_BACK,
    FASTRNN_MUL_TANH_BACK, FASTRNN_FMA_ADD, FASTRNN_FMA_SIGMOID, FASTRNN_FMA_TANH, FASTRNN_ADDED_MUL, FASTRNN_ADDED_FMA,
    FASTRNN_ADDED_FNMA
};

/* out := op(a, b, c), or two operations on a to e; operands are indices into a table of places: see program.inc.h */
typedef struct {
    int op, out, a, b, c, d, e;
} fastrnn_instruction;

enum {
    FASTRNN_UNIT_SLOTS = 16,                        /* sums and parameters of a program */
    FASTRNN_GROUP_UNITS = 4,                        /* unit vectors of a group, at the most */
    FASTRNN_GROUP_BLOCKS = FASTRNN_UNIT_SLOTS * FASTRNN_GROUP_UNITS / 4, /* and its blocks */
    FASTRNN_STATES = 8,                             /* states of a program */
    FASTRNN_EXTRAS = 16,                            /* values that are given beside x */
    FASTRNN_CONSTANTS = 32,
    FASTRNN_REGISTERS = 32,
    FASTRNN_PARAMETERS = 32,                        /* of a program, M */
    FASTRNN_ROW_VALUES = 96,                        /* of a program in phases */
    FASTRNN_SUMS = 32,                              /* of a phase */
};
/* The places of an instruction's operands: where each kind of them begins. */
enum {
    FASTRNN_AT_SLOT = 0,
    FASTRNN_AT_BEFORE = FASTRNN_AT_SLOT + FASTRNN_UNIT_SLOTS,
    FASTRNN_AT_AFTER = FASTRNN_AT_BEFORE + FASTRNN_STATES,
    FASTRNN_AT_GRADIENT = FASTRNN_AT_AFTER + FASTRNN_STATES,
    FASTRNN_AT_UNIT = FASTRNN_AT_GRADIENT + FASTRNN_STATES,
    FASTRNN_AT_SHOWN = FASTRNN_AT_UNIT + FASTRNN_PARAMETERS,
    FASTRNN_AT_MIDDLE = FASTRNN_AT_SHOWN + FASTRNN_UNIT_SLOTS,
    FASTRNN_AT_EXTRA = FASTRNN_AT_MIDDLE + 1,
    FASTRNN_AT_TAKEN = FASTRNN_AT_EXTRA + FASTRNN_EXTRAS,
    FASTRNN_AT_CONSTANT = FASTRNN_AT_TAKEN + 1,
    FASTRNN_AT_REGISTER = FASTRNN_AT_CONSTANT + FASTRNN_CONSTANTS,
    FASTRNN_AT_ROW = FASTRNN_AT_REGISTER + FASTRNN_REGISTERS,
    FASTRNN_AT_SUM = FASTRNN_AT_ROW + FASTRNN_ROW_VALUES,
    FASTRNN_AT_OWN = FASTRNN_AT_SUM + FASTRNN_SUMS,
    FASTRNN_AT_INTO_EXTRA = FASTRNN_AT_OWN + FASTRNN_PARAMETERS,
    FASTRNN_PLACES = FASTRNN_AT_INTO_EXTRA + FASTRNN_EXTRAS,
};

typedef struct {
    const fastrnn_instruction *instructions;
    ptrdiff_t count;
} fastrnn_code;

/* A part of a program between two sums over the units of a row: fastrnn.cells.program.Phase. */
typedef struct {
    fastrnn_code of_row, of_units;
    int means[FASTRNN_SUMS], mean_count; /* the row's values that sums of the phase before become */
    int reads[FASTRNN_ROW_VALUES], read_count; /* those that of_units reads */
} fastrnn_phase;

typedef struct {
    const fastrnn_phase *first;
    int count;
} fastrnn_phases;

/* A cell as a program: fastrnn.cells.program.Program. */
typedef struct {
    int units, blocks;              /* of a group: 1, 2 or 4 unit vectors */
    int slots, x_slots, h_slots;    /* S sums; x feeds the first of them */
    int h_first, m_first, m_slots;  /* those that h and m feed, which is the first or the last ones: see fastrnn_layer */
    int states, parameters, gates;  /* K, M, G; gates are what `inside` shows */
    int reads_h;                    /* whether the equations read the state before that is h */
    int reads_y;                    /* whether backward or `inside` read the new one */
    int adds_up;                    /* whether backward adds up gradients of parameters in `own`, without slots */
    int x_gates[4 * FASTRNN_GROUP_BLOCKS]; /* blocks of the weights, by vector of the group's slots that are fed */
    int h_gates[4 * FASTRNN_GROUP_BLOCKS], m_gates[4 * FASTRNN_GROUP_BLOCKS];
    int extras, into_extras, registers, constant_count; /* into_extras: of so many backward has gradients */
    const void *constants;          /* [constant][units][L], aligned to 64 bytes */
    fastrnn_code forward, backward, inside;
    fastrnn_code take, take_back; /* of h what the recurrent product takes, and back; take is empty if that is h itself */
    fastrnn_code middle, middle_back; /* before the product of m: from the other sums to m; back from there */
    fastrnn_phases phases, phases_back;        /* in place of forward and backward, if there are any */
    fastrnn_phases phases_middle, phases_middle_back; /* and of middle and middle_back */
    int row_values, all_row_values;            /* of each row: those that are kept, behind Z; and all */
    int sums;                                  /* the most that a phase has */
} fastrnn_program;

/* Whether a program has no recurrent product: its units have nothing to do with one another. */
static inline int fastrnn_is_scan(const fastrnn_program *p) { return !p->h_slots && !p->m_slots; }

/* What a program is given beside x, by row or by sequence: one value for all units, or one for each; or its gradient. */
typedef struct {
    const void *at;  /* IN    (R, W), or by sequence (N, W); OUT of a gradient (R, H) */
    ptrdiff_t width; /* W: 1 or H */
    ptrdiff_t row;   /* from row to row */
    int of_sequence; /* whether all steps of a sequence have the same */
} fastrnn_extra;

/* One layer over one sequence. void * are float or double arrays, C-contiguous; strides count elements.
 * The caller owns all memory; panels, bias, Z, c and carry are aligned to 64 bytes. */
typedef struct {
    ptrdiff_t steps, batch, inputs, hidden, outputs; /* T, N, I, H, P; complex.h owns the name I */
    ptrdiff_t rows;                                  /* R */
    const ptrdiff_t *offsets; /* IN    (T + 1): the row at which each step's begin; NULL: at t * N */
    int reverse;              /* whether forward begins with the last step */

    /* forward */
    void *y;                       /* OUT   (R, P) */
    void *u;                       /* INOUT (R, H), (N, H) unless kept: h before its projection; NULL without one */
    void *m;                       /* INOUT likewise: what a second recurrent product takes in place of h; or NULL */
    void *taken;                   /* INOUT (R, H), (N, H) unless kept: what the recurrent product takes; NULL if it is h */
    void *z;                       /* INOUT [block][row - z_row][4 * L], or NULL: nothing is kept; behind it, of a program
                                      in phases, [row][row value], or unless kept [n][row value] */
    void *c;                       /* INOUT (N + R, C), the initial state first, C = H rounded up to L; (N, C) unless
                                      kept; lstm; of a program (..., K - 1, C), or NULL with one state */
    const void *x;                 /* IN    (R, I), or NULL when tokens are given */
    const intptr_t *tokens;        /* IN    (R) */
    const void *h_0;               /* IN    (N, P) */
    const fastrnn_program *program; /* IN   or NULL */
    const void *weight_ih;         /* IN    (G*H, I), int8 if the functions are of FASTRNN_I8 */
    const void *weight_hh;         /* IN    (G*H, P) */
    const float *scale_ih, *scale_hh; /* IN (G*H), of weights that are int8 */
    const void *unit;              /* IN    (M, H), of a program */
    const void *units;             /* IN    the same in phases, (M, H rounded up to L), aligned to 64 bytes */
    const void *bias_ih, *bias_hh; /* IN    (G*H), or both NULL */
    const fastrnn_extra *extras;   /* IN    of a program, as many as it says */
    void *panels;                  /* INOUT [block][I + P][panel slots][L], made by pack; NULL: step packs as it goes;
                                      with m [block][I + P + H][panel slots][L] */
    void *bias;                    /* INOUT [block][4][L], made by pack */
    void *scales;                  /* INOUT of weights of fewer bits, made by pack: see narrow.inc.h, as of their panels */
    ptrdiff_t y_row;               /* from row to row of y */
    ptrdiff_t z_stride;            /* from block to block of Z */
    ptrdiff_t z_row;               /* the row at which Z starts */
    ptrdiff_t panel_stride;        /* from block to block of panels */
    int keep;                      /* whether the activated gates go to Z, and c and u of every row are kept */
    int projected;                 /* whether Z holds bias and input product already */
    int pairs;                     /* whether a step of a single row may take two blocks at once */
    ptrdiff_t fetch_bytes;         /* of weights, beyond which the next panel is fetched into L2 ahead of its use */
    int turned;                    /* whether even steps, not odd ones, go through the blocks from the last to the first */

    /* backward */
    void *dx;                            /* OUT   (R, I) */
    void *dh_0;                          /* OUT   (N, P) */
    void *dweight_ih, *dweight_hh;       /* OUT   shapes of the weights */
    void *dbias_ih, *dbias_hh;           /* OUT   or NULL */
    void *dunit;                         /* OUT   (M, H), of a program */
    int dx_add, dweight_add;             /* whether dx, and the gradients of weights and biases, are added to: INOUT */
    void *carry;                         /* INOUT (N, C): lstm dc, gru the part of dh that bypasses the product; of a
                                            program (N, K, C): that part, which becomes dh, then the gradients of the other
                                            states; of one in phases with m (N, K + 1, C), m's behind them */
    void *dh;                            /* INOUT (R, P), the gradient of y and of what follows from it; with u */
    const void *du;                      /* IN    (N, H), dh of a step times weight_hr */
    void *own;                           /* INOUT (N, M, H rounded up to L), of a program that adds up: the gradients of the
                                            parameters from the steps of a group, which own_gradients adds up */
    void *into_extras;                   /* OUT   [extra](R, H rounded up to L), of a program with these gradients; or NULL */
    const fastrnn_extra *dextras;        /* OUT   (R, H) each, the same of a program without phases and take; or NULL */
    const void *dy;                      /* IN    (R, P), or NULL for zero */
    const void *dh_n;                    /* IN    (N, P), or NULL for zero */
    ptrdiff_t dy_row;                    /* from row to row of dy */
    const ptrdiff_t *chunks;             /* IN    (chunk_count, 2): first row and number of rows of each sum that goes into
                                            the gradients of the weights, in the order in which they are added */
    ptrdiff_t chunk_count;
    ptrdiff_t chunk_start, chunk_end;    /* those that are due, up to chunk_end - 1; the sums of those before lie in scratch
                                            then, and are of all blocks */
    void *panels_hh;                     /* INOUT [panel of 4 unit vectors][Z order][4 * L], made by pack_hidden */
    void *panels_m;                      /* INOUT likewise of the second product, made by pack_hidden */
    void *panels_ih;                     /* INOUT [panel of 4 * L inputs][Z order][4 * L], made by pack_input */
    ptrdiff_t gradient_bytes;            /* of weight gradients that are summed together, sharing a packing of x and h_prev */
    int few_rows; /* R is at most FASTRNN_FEW_ROWS, or less where H is small, and nothing is added to: read weights in
                     place, save for a last panel that is not full, and write their gradients in place: packing would
                     cost more */

    /* Which products run on split floats, where the instruction set has them: see split.inc.h. The driver decides. */
    int split_x; /* x weight_ih^T and Z weight_ih; in forward Z is projected then */
    int split_w; /* the gradients of the weights */
    void *split_panels; /* INOUT weight_ih, split: the x part of panels, made by pack, then panels_ih, by pack_input */

    void *scratch; /* INOUT private to the thread */

    fastrnn_watch *watch; /* INOUT of the call: weight_gradients and input_gradient return early if it is to stop */
} fastrnn_layer;

/* Whether a step starts with the last block: every second one does, with the panels that the step before has left in the
 * cache. */
static inline int fastrnn_goes_back(const fastrnn_layer *l, ptrdiff_t s) { return (s + l->turned) % 2; }

/* What the caller allocates for a layer, in elements. Layouts are those of fastrnn_layer; layer_split.inc.h has its own. */
typedef struct {
    ptrdiff_t panel;                       /* of a block, in panels */
    ptrdiff_t hidden_panels, input_panels; /* how many panels panels_hh and panels_ih have */
    ptrdiff_t backward_panel;              /* one of them */
    ptrdiff_t split_forward;               /* of a block, in split_panels */
    ptrdiff_t split_backward;              /* of a panel of panels_ih there */
    ptrdiff_t forward_scratch, backward_scratch;
    ptrdiff_t gradient_blocks; /* whose weight gradients are summed together */
    ptrdiff_t scales;          /* of a block, in scales */
    ptrdiff_t left_row;        /* scratch for each row of a step, or FASTRNN_LEFT_ROWS if these are more */
} fastrnn_sizes;

typedef struct {
    ptrdiff_t block_units; /* hidden units of a block: L or 4 * L */

    /* sizes := what a layer needs */
    void (*measure)(const fastrnn_layer *, fastrnn_sizes *sizes);

    /* panels, bias := the weights of blocks b0 .. b1-1 */
    void (*pack)(const fastrnn_layer *, ptrdiff_t b0, ptrdiff_t b1);
    /* Z := bias + x weight_ih^T, rows row0 .. row1-1 */
    void (*project)(const fastrnn_layer *, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t row0, ptrdiff_t row1);
    /* y (or u), c, Z := step s of fastrnn.reference.forward without its projection, batch rows n0 .. n1-1 */
    void (*step)(const fastrnn_layer *, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1);

    /* y, c := steps s0 .. s1 - 1 of a single row, one after the other, where nothing is kept nor projected, weights are packed
     * and there are at most FASTRNN_ROW_VECTORS; NULL of programs */
    void (*steps_of_row)(const fastrnn_layer *, ptrdiff_t s0, ptrdiff_t s1);
    /* the same of `count` layers of one shape, up to FASTRNN_ROWS_IN_TURNS, in turns */
    void (*steps_of_rows)(const fastrnn_layer *const *, ptrdiff_t count, ptrdiff_t s0, ptrdiff_t s1);

    /* taken := what the recurrent product of step s takes, made before step, of all units of its rows; NULL where cells
     * take h */
    void (*step_take)(const fastrnn_layer *, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1);
    /* the same step from m on, which step has made of all units of its rows; NULL where cells have none */
    void (*step_middle)(const fastrnn_layer *, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1);

    /* the same step in phases, of which step leaves the sums in Z, and step_back dh: all units of batch rows n0 .. n1 - 1.
     * Those up to m (to_m), and then, after step_middle and step_back_middle, which are the products alone, the others. */
    void (*step_phases)(const fastrnn_layer *, ptrdiff_t s, int to_m, ptrdiff_t n0, ptrdiff_t n1);
    void (*step_back_phases)(const fastrnn_layer *, ptrdiff_t s, int to_m, ptrdiff_t n0, ptrdiff_t n1);
    /* dunit += own, summed over the batch, unit vectors q0 .. q1 - 1; own := 0 */
    void (*own_gradients)(const fastrnn_layer *, ptrdiff_t q0, ptrdiff_t q1);

    /* gates [gate](rows, H), c (rows, H) := what forward has kept of rows row0 .. row1-1, row r in row to[r], in r where
     * to is NULL; c is lstm's, and a program's [K - 1](rows, H) */
    void (*read_tape)(
        const fastrnn_layer *, void *gates, void *c, ptrdiff_t rows, const intptr_t *to, ptrdiff_t row0, ptrdiff_t row1);

    /* panels_hh, panels_ih := the weights in Z order, panels p0 .. p1-1 */
    void (*pack_hidden)(const fastrnn_layer *, ptrdiff_t p0, ptrdiff_t p1);
    void (*pack_input)(const fastrnn_layer *, ptrdiff_t p0, ptrdiff_t p1);
    /* Z := step s of fastrnn.reference.backward, from s = T - 1 down to -1; dh_0 of the rows that step s + 1 began with.
     * With a projection dh instead of Z, and then, once the caller has made du of it, step_back_gates. */
    void (*step_back)(const fastrnn_layer *, ptrdiff_t s, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t n0, ptrdiff_t n1);
    /* With m step_back gets as far as the gradients of the sums that m feeds; the rest, once it has all units of them: */
    void (*step_back_middle)(const fastrnn_layer *, ptrdiff_t s, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t n0, ptrdiff_t n1);
    void (*step_back_gates)(const fastrnn_layer *, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1);
    /* dweights, dbiases := sum over rows; anything if the call is to stop, as in the next one */
    void (*weight_gradients)(const fastrnn_layer *, ptrdiff_t b0, ptrdiff_t b1);
    /* dx := Z weight_ih */
    void (*input_gradient)(const fastrnn_layer *, ptrdiff_t row0, ptrdiff_t row1);
} fastrnn_cell;

/* out := a b + bias: out (rows, columns), a (rows, K) of any strides, b (K, columns) with one stride of 1. */
typedef struct {
    ptrdiff_t rows, columns, K;
    void *out;        /* OUT */
    const void *a;    /* IN */
    const void *b;    /* IN */
    const void *bias; /* IN    (columns), or NULL */
    void *panels;     /* INOUT [panel of 4 * L columns][K][4 * L], made by pack_right */
    ptrdiff_t out_row, a_row, a_k, b_k, b_column;
    int add; /* whether out is added to: INOUT */
} fastrnn_product;

typedef struct {
    ptrdiff_t lanes;     /* L */
    ptrdiff_t tile_rows; /* of the register tile */
    fastrnn_cell cells[FASTRNN_CELLS];
    void (*pack_right)(const fastrnn_product *, ptrdiff_t p0, ptrdiff_t p1);
    void (*multiply)(const fastrnn_product *, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t row0, ptrdiff_t row1);
    /* The instructions on places 0 .. count-1 of `vectors` vectors each, end to end. */
    void (*evaluate)(const fastrnn_code *, void *places, ptrdiff_t count, ptrdiff_t vectors);
    /* OUT p (n, columns), top (n), total (n), IN z (n, columns): of rows row0..row1 */
    void (*softmax)(
        void *p, void *top, void *total, const void *z, ptrdiff_t columns, double scale, ptrdiff_t row0, ptrdiff_t row1);
} fastrnn_kernels;

/* Names of the instruction sets, from the most portable to the fastest; the last entry is NULL. */
extern const char *const fastrnn_isa_names[];
/* Whether this CPU and operating system run instruction set `isa`. */
int fastrnn_isa_runs(int isa);
/* The instruction set that has the kernels of a precision: `isa`, or the next lower one that has them and runs here. */
int fastrnn_isa_of(int isa, int precision);
/* These kernels. */
const fastrnn_kernels *fastrnn_kernel_table(int isa, int precision);

#endif
