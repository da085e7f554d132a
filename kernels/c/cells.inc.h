/* The cells: per cell a few constants and the point functions on one row of one unit vector, forward then backward.
 * They must equal those in fastrnn.reference. Forward is in two halves, so that the CPU finds work in the other rows
 * while an h waits for what it depends on (0.87 of the time of 16 LSTM cells): first all gates that need no other
 * gate and c, then h.
 *
 *   <cell>_gates(z, &c)    z: INOUT pre-activations to gates; c: INOUT, c_prev on entry
 *   h = <cell>_output(z, c, h_prev)    z: INOUT, from there to what the tape keeps
 *   <cell>_backward(z, &carry, dh, h_prev, c_prev, c)    z: IN what the tape keeps, OUT gradients of the pre-activations
 *
 * carry is the gradient that reaches the previous step without the recurrent product: of c in the lstm, INOUT; in the gru
 * it is OUT, as dh has it on entry. What a cell does not need is not loaded: arguments that it ignores are dead code once
 * inlined. */
#ifndef CELL_CONSTANTS
#define CELL_CONSTANTS
/* UNITS of a block in vectors, SLOTS a product feeds, first slot of the recurrent product, gates of the slots */
#define rnn_tanh_UNITS 4
#define rnn_tanh_PANEL_SLOTS 4
#define rnn_tanh_HIDDEN_SLOT 0
#define rnn_tanh_X_GATES {0, 0, 0, 0}
#define rnn_tanh_H_GATES {0, 0, 0, 0}
#define rnn_tanh_HAS_C 0
#define rnn_tanh_READS_H 0
#define rnn_relu_UNITS rnn_tanh_UNITS
#define rnn_relu_PANEL_SLOTS rnn_tanh_PANEL_SLOTS
#define rnn_relu_HIDDEN_SLOT rnn_tanh_HIDDEN_SLOT
#define rnn_relu_X_GATES rnn_tanh_X_GATES
#define rnn_relu_H_GATES rnn_tanh_H_GATES
#define rnn_relu_HAS_C rnn_tanh_HAS_C
#define rnn_relu_READS_H rnn_tanh_READS_H
#define lstm_UNITS 1
#define lstm_PANEL_SLOTS 4
#define lstm_HIDDEN_SLOT 0
#define lstm_X_GATES {0, 1, 2, 3}
#define lstm_H_GATES {0, 1, 2, 3}
#define lstm_HAS_C 1
#define lstm_READS_H 0
#define gru_UNITS 1
#define gru_PANEL_SLOTS 3
#define gru_HIDDEN_SLOT 1
#define gru_X_GATES {2, 0, 1} /* n_x, r, z of the gates r, z, n */
#define gru_H_GATES {0, 1, 2} /* r, z, n_h */
#define gru_HAS_C 0
#define gru_READS_H 1
/* What a program does not leave to run time: the most that there can be. */
#define program_UNITS 4
#define program_PANEL_SLOTS 4
#define program_HIDDEN_SLOT 0
#define program_X_GATES {0, 0, 0, 0}
#define program_H_GATES {0, 0, 0, 0}
#define program_HAS_C 1
#define program_READS_H 1
#define program_IS_PROGRAM 1
#define rnn_tanh_IS_PROGRAM 0
#define rnn_relu_IS_PROGRAM 0
#define lstm_IS_PROGRAM 0
#define gru_IS_PROGRAM 0
#define program_MIDDLE(name) NAME(program_##name)
#define rnn_tanh_MIDDLE(name) NULL
#define rnn_relu_MIDDLE(name) NULL
#define lstm_MIDDLE(name) NULL
#define gru_MIDDLE(name) NULL
/* and what only the others have */
#define program_OF_ROW(name) NULL
#define rnn_tanh_OF_ROW(name) NAME(rnn_tanh_##name)
#define rnn_relu_OF_ROW(name) NAME(rnn_relu_##name)
#define lstm_OF_ROW(name) NAME(lstm_##name)
#define gru_OF_ROW(name) NAME(gru_##name)
/* whose phases without a point function a cell has: its own, but for cells that differ in that alone */
#define rnn_tanh_PRODUCTS(name) rnn_tanh_##name
#define rnn_relu_PRODUCTS(name) rnn_tanh_##name
#define lstm_PRODUCTS(name) lstm_##name
#define gru_PRODUCTS(name) gru_##name
#define program_PRODUCTS(name) program_##name
#endif

INLINE void NAME(rnn_tanh_gates)(vec z[1], vec *c) { z[0] = vec_tanh(z[0]); }
INLINE vec NAME(rnn_tanh_output)(vec z[1], vec c, vec h_prev) { return z[0]; }
INLINE void NAME(rnn_tanh_backward)(vec z[1], vec *carry, vec dh, vec h_prev, vec c_prev, vec c) {
    z[0] = dh * (vec_splat(1) - z[0] * z[0]); /* h = tanh(a) */
}

INLINE void NAME(rnn_relu_gates)(vec z[1], vec *c) { z[0] = vec_max(vec_splat(0), z[0]); }
INLINE vec NAME(rnn_relu_output)(vec z[1], vec c, vec h_prev) { return z[0]; }
INLINE void NAME(rnn_relu_backward)(vec z[1], vec *carry, vec dh, vec h_prev, vec c_prev, vec c) {
    z[0] = (vec)(~(vint)(z[0] <= vec_splat(0)) & (vint)dh); /* h = max(a, 0); dh also where h is NaN, as in torch */
}

INLINE void NAME(lstm_gates)(vec z[4], vec *c) {
    const vec i = vec_sigmoid(z[0]), f = vec_sigmoid(z[1]), g = vec_tanh(z[2]), o = vec_sigmoid(z[3]);
    *c = vec_fma(f, *c, i * g);
    z[0] = i, z[1] = f, z[2] = g, z[3] = o;
}
INLINE vec NAME(lstm_output)(vec z[4], vec c, vec h_prev) { return z[3] * vec_tanh(c); }
INLINE void NAME(lstm_backward)(vec z[4], vec *carry, vec dh, vec h_prev, vec c_prev, vec c) {
    const vec i = z[0], f = z[1], g = z[2], o = z[3], one = vec_splat(1);
    const vec tanh_c = vec_tanh(c);
    const vec dc = vec_fma(dh * o, one - tanh_c * tanh_c, *carry); /* h = o * tanh(c) */
    z[0] = dc * g * (i * (one - i));                               /* c = f * c_prev + i * g,  i = sigmoid(a_i) */
    z[1] = dc * c_prev * (f * (one - f));                          /* f = sigmoid(a_f) */
    z[2] = dc * i * (one - g * g);                                 /* g = tanh(a_g) */
    z[3] = dh * tanh_c * (o * (one - o));                          /* o = sigmoid(a_o) */
    *carry = dc * f;                                               /* c = f * c_prev + ... */
}

INLINE void NAME(gru_gates)(vec z[4], vec *c) { z[1] = vec_sigmoid(z[1]), z[2] = vec_sigmoid(z[2]); }
INLINE vec NAME(gru_output)(vec z[4], vec c, vec h_prev) {
    const vec r = z[1], u = z[2], n = z[0] = vec_tanh(vec_fma(r, z[3], z[0])); /* z[3] stays n_h */
    return vec_fma(u, h_prev - n, n);
}
INLINE void NAME(gru_backward)(vec z[4], vec *carry, vec dh, vec h_prev, vec c_prev, vec c) {
    const vec n = z[0], r = z[1], u = z[2], n_h = z[3], one = vec_splat(1);
    const vec da_n = dh * (one - u) * (one - n * n); /* h = n + u * (h_prev - n),  n = tanh(n_x + r * n_h) */
    z[0] = da_n;                                     /* through n_x */
    z[1] = da_n * n_h * (r * (one - r));             /* r = sigmoid(a_r) */
    z[2] = dh * (h_prev - n) * (u * (one - u));      /* u = sigmoid(a_z) */
    z[3] = da_n * r;                                 /* through n_h */
    *carry = dh * u;                                 /* h = u * h_prev + ... */
}
