"""The faults that `mutants` puts into the code: each changes one line, and is one that somebody could make.

A group is of one file and has the suites of tests that are meant to notice; a mutant may name its own. The text before
stands in the file exactly once. A mutant that changes nothing that a test could see has the reason.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """One fault."""

    name: str
    before: str
    after: str
    suites: str = ""  # names in `mutants.SUITES`, tried in order; those of the group where it is empty
    reason: str = ""  # why it survives, if it does
    path: str = ""
    isa: str = ""  # the instruction set without which it changes nothing, if there is one


GROUPS: dict[tuple[str, str], list[Mutant]] = {
    ("kernels/c/caches.c", "machine"): [
        Mutant("caches_have_a_set_too_few", "((size_t)c + 1) * ", "(size_t)c * "),
        Mutant("every_level_is_the_first", "(int)(a >> 5 & 7) != level", "(int)(a >> 5 & 7) != 1"),
    ],
    ("kernels/choices.py", "machine"): [
        Mutant("a_core_has_all_of_a_shared_l2", "l2.size // caches.cores(l2)", "l2.size"),
        Mutant("weights_of_a_row_fill_l1", "min(30 * KB, l1d * 15 // 16)", "30 * KB"),
    ],
    ("fastrnn/machine.py", "machine"): [
        Mutant("instructions_are_data", '_line(index / "type") != "Instruction"', "True"),
        Mutant("threads_are_cores", "cache.sharing // self.l1d.sharing", "cache.sharing"),
        Mutant("what_is_half_known_counts", "known[0].size and known[1].size", "known[0].size"),
    ],
    ("kernels/c/tile.inc.h", "kernels"): [
        Mutant("segments_start_alike", "m->a + r * a_row + s * m->a_segment;", "m->a + r * a_row;"),
        Mutant("tile_reads_first_rows", "height, acc + r, m, r, tile);", "height, acc + r, m, 0, tile);"),
        Mutant(
            "pair_reads_one_block_twice",
            "DOT(left, LOAD(p + j * p_block + v * LANES), sum[j][v]);",
            "DOT(left, LOAD(p + v * LANES), sum[j][v]);",
        ),
    ],
    ("kernels/c/narrow.inc.h", "narrow"): [
        Mutant("narrow_row_takes_no_absolute_values", "K - k) & INT32_MAX, above", "K - k), above"),
        Mutant("narrow_row_begins_no_lower", "(shift_bits - I8_OFFSET);", "shift_bits;", isa="avx512_vnni"),
        Mutant("narrow_row_makes_zeros_of_infinity", "return top >= 0x7f800000 ? NAN : 0;", "return 0;"),
        Mutant("bfloat16_is_cut", "number + 0x7fff + (number >> 16 & 1);", "number;"),
        Mutant("bfloat16_ties_go_up", "number + 0x7fff + (number >> 16 & 1);", "number + 0x8000;"),
        Mutant("bfloat16_loses_nan", "((bits | 0x400000) & nan)", "(bits & nan)"),
        Mutant("pack_forgets_a_last_part", "memcpy(to, w + k, (size_t)(K - k) * sizeof(*w));", ""),
        Mutant(
            "pack_reads_the_first_columns",
            "NARROWED(narrow_row)(rows[lane], w + lane * K + k, count);",
            "NARROWED(narrow_row)(rows[lane], w + lane * K, count);",
        ),
        Mutant("sums_begin_with_zero", "= -I8_OFFSET * sum;", "= 0;", isa="avx512_vnni"),
        Mutant("left_scale_is_forgotten", "convertvector(sum, vec) * vec_splat(left_scale)", "convertvector(sum, vec)"),
        Mutant("column_of_another_token", "(24 - 8 * (int)(k % 4)) >> 24", "(24 - 8 * (int)((k + 1) % 4)) >> 24"),
        Mutant("bfloat16_column_of_another_token", "(k % 2 ? 0 : 16)", "(k % 2 ? 16 : 0)"),
    ],
    ("kernels/c/layer_narrow.inc.h", "narrow"): [
        Mutant("panel_of_h_is_that_of_x", "(of_h ? NARROWED(elements)", "(0 ? NARROWED(elements)"),
        Mutant("pair_has_one_scale", "scales[count > 1 ? 2 * i : 0].scale[slot],", "scales[0].scale[slot],"),
        Mutant("pair_begins_alike", "scales[count > 1 ? 2 * i : 0].start[slot];", "scales[0].start[slot];"),
        Mutant("rows_share_a_scale", "left->scales[count > 1 ? r : r + i]", "left->scales[r]"),
        Mutant(
            "projection_reads_first_rows",
            "(l, z, b, 0, 1, &x, r, rows, tile, NULL)",
            "(l, z, b, 0, 1, &x, 0, rows, tile, NULL)",
        ),
        Mutant(
            "x_of_other_rows",
            "(const REAL *)l->x + (piece->row + n) * I, I, I, rows);",
            "(const REAL *)l->x + piece->row * I, I, I, rows);",
        ),
        Mutant(
            "gradient_takes_a_row_of_z_twice",
            "r + 1 < count ? vec_load(even + Z_WIDTH)",
            "r + 1 < count ? vec_load(even)",
        ),
        Mutant(
            "gradient_takes_a_row_of_x_twice",
            "vec_load_part(rows[2 * r + 1] + k, columns - k)",
            "vec_load_part(rows[2 * r] + k, columns - k)",
        ),
        Mutant(
            "gradient_loses_a_last_odd_row",
            ".p_k = Z_WIDTH, .K = ceil_div(count, 2),",
            ".p_k = Z_WIDTH, .K = count / 2,",
        ),
        Mutant("rows_of_z_are_the_first", "(row - z->first) * NARROW_Z_WIDTH", "0 * NARROW_Z_WIDTH"),
        Mutant("z_begins_at_the_slots_of_x", " + feed.first * (LANES / 2);", ";"),
        Mutant(
            "step_back_narrows_rows_of_others",
            "fastrnn_step_row(l, s + 1) + n0, count);",
            "fastrnn_step_row(l, s + 1), count);",
        ),
        Mutant("panel_has_a_row_beyond_a_gate", "lane + 1 < lanes ? left", "lane < lanes ? left"),
    ],
    ("fastrnn/narrow.py", "narrow"): [
        Mutant("gradient_takes_dz_as_it_is", "dz, x = as_bfloat16(dz), as_bfloat16(x)", "x = as_bfloat16(x)"),
        Mutant(
            "backward_takes_dz_as_it_is",
            "product: Array = as_bfloat16(a) @ self.wide()",
            "product: Array = a @ self.wide()",
        ),
        Mutant("scales_of_128", "top / np.float32(127)", "top / np.float32(128)"),
        Mutant("product_forgets_the_row", "astype(np.float32) * scales[:, None] * scale", "astype(np.float32) * scale"),
    ],
    ("fastrnn/quantized.py", "precision"): [
        Mutant("calibration_takes_the_worst", "better = squares < least", "better = squares > -least"),
        Mutant("integers_wrap_around", "np.maximum(from_zero, -127)", "from_zero", "torch_quantized"),
        Mutant("zero_points_are_zero", "np.int32) - np.reshape(", "np.int32) - 0 * np.reshape(", "torch_quantized"),
        Mutant("calibration_of_a_layer_is_that_of_the_first", "below = np.concatenate(outputs, axis=-1)", "pass"),
    ],
    ("kernels/c/gemm.inc.h", "kernels"): [
        Mutant(
            "last_row_of_tiles_left_out",
            "return count * tile / NAME(tile_count)(count);",
            "return (count - 1) * tile / NAME(tile_count)(count);",
        ),
        Mutant(
            "pack_left_one_column_short",
            "memcpy(out + r * LEFT_WIDTH, a[r] + k, (size_t)height * sizeof(REAL));",
            "memcpy(out + r * LEFT_WIDTH, a[r] + k, (size_t)(height - 1) * sizeof(REAL));",
        ),
        Mutant(
            "shuffle_swaps_two_lanes",
            "__builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15)",
            "__builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 15, 7)",
        ),
        Mutant(
            "pack_slot_forgets_a_last_column",
            "for (; k < K; k += LANES) NAME(transpose_part)(panel + k * panel_k,",
            "for (; k < K - 1; k += LANES) NAME(transpose_part)(panel + k * panel_k,",
        ),
        Mutant(
            "unpack_slot_writes_lanes_beyond_the_gate",
            "panel + k * panel_k, panel_k, K - k, rows, 0);",
            "panel + k * panel_k, panel_k, K - k, LANES, 0);",
        ),
        Mutant(
            "pack_right_has_no_stride", "vec_load_part(b + k * m->b_k, left)", "vec_load_part(b + k, left)", "dense"
        ),
        Mutant(
            "multiply_reads_the_first_chunk", "(p * m->K + k) * 4 * LANES, .p_k", "p * m->K * 4 * LANES, .p_k", "dense"
        ),
        Mutant(
            "multiply_takes_one_bias", "(const REAL *)m->bias + (4 * p + v) * LANES;", "(const REAL *)m->bias;", "dense"
        ),
        Mutant("multiply_does_not_add", "if (m->add) sums[r][v] +=", "if (m->add > 1) sums[r][v] +="),
    ],
    ("kernels/c/vmath.inc.h", "activations"): [
        Mutant("sigmoid_saturates_early", "#define SIGMOID_LIMIT 88.0f ", "#define SIGMOID_LIMIT 16.0f "),
        Mutant(
            "sigmoid_loses_nan",
            "vec_min(vec_splat(SIGMOID_LIMIT), vec_max(vec_splat(-SIGMOID_LIMIT), a));",
            "vec_min(vec_max(a, vec_splat(-SIGMOID_LIMIT)), vec_splat(SIGMOID_LIMIT));",
            "activations kernels",
        ),
        Mutant("series_has_a_wrong_digit", "0.333332516f, -0.0221340937f}", "0.333332516f, -0.0231340937f}"),
        Mutant("tanh_saturates_early", "vec_min(vec_splat(32 * LN2),", "vec_min(vec_splat(8 * LN2),"),
    ],
    ("kernels/c/softmax.inc.h", "dense"): [
        Mutant(
            "softmax_skips_the_first_vector",
            "c = 0; c < body; c += LANES) highest",
            "c = LANES; c < body; c += LANES) highest",
        ),
        Mutant(
            "softmax_sums_its_padding",
            "(vec)((vint)NAME(exp_below_0)(last - origin) & inside);",
            "NAME(exp_below_0)(last - origin);",
        ),
        Mutant(
            "softmax_sums_half_of_the_lanes",
            "for (int half = LANES / 2; half; half /= 2)\n        for (int i = 0; i < half; i++) lanes[i] += lanes",
            "for (int half = LANES / 4; half; half /= 2)\n        for (int i = 0; i < half; i++) lanes[i] += lanes",
        ),
    ],
    ("kernels/c/cells.inc.h", "kernels"): [
        Mutant(
            "tanh_derivative_is_not_squared",
            "(vec_splat(1) - z[0] * z[0]); /* h = tanh(a) */",
            "(vec_splat(1) - z[0]); /* h = tanh(a) */",
        ),
        Mutant("relu_differentiates_zero", "~(vint)(z[0] <= vec_splat(0))", "~(vint)(z[0] < vec_splat(0))"),
        Mutant("relu_stops_nan", "~(vint)(z[0] <= vec_splat(0))", "(vint)(z[0] > vec_splat(0))"),
        Mutant("lstm_swaps_i_and_f", "vec_fma(f, *c, i * g)", "vec_fma(i, *c, f * g)"),
        Mutant(
            "lstm_drops_the_gradient_of_c",
            "vec_fma(dh * o, one - tanh_c * tanh_c, *carry);",
            "dh * o * (one - tanh_c * tanh_c);",
        ),
        Mutant("lstm_takes_c_for_c_prev", "dc * c_prev * (f * (one - f))", "dc * c * (f * (one - f))"),
        Mutant("lstm_carry_forgets_nothing", "*carry = dc * f;", "*carry = dc;"),
        Mutant("gru_swaps_the_update_gate", "vec_fma(u, h_prev - n, n)", "vec_fma(u, n - h_prev, h_prev)"),
        Mutant("gru_drops_a_factor_of_r", "da_n * n_h * (r * (one - r))", "da_n * (r * (one - r))"),
        Mutant("gru_resets_nothing_in_backward", "z[3] = da_n * r;", "z[3] = da_n;"),
        Mutant("gru_carry_ignores_u", "*carry = dh * u;", "*carry = dh;"),
        Mutant("gru_swaps_gates_of_x", "#define gru_X_GATES {2, 0, 1}", "#define gru_X_GATES {2, 1, 0}"),
    ],
    ("kernels/c/layer.inc.h", "kernels"): [
        Mutant("biases_of_m_are_elsewhere", "bias[slot + m.first] +=", "bias[slot] +=", "normalized"),
        Mutant("gradients_of_ms_biases_begin_anew", "sums[slot + m.first] = vec", "sums[slot] = vec", "normalized"),
        Mutant("gradient_of_m_of_the_first_rows", "FN(dm_at)(l, n + r)", "FN(dm_at)(l, n)", "normalized"),
        Mutant(
            "weight_row_counts_blocks", "return gate * l->hidden + q * LANES;", "return gate * l->hidden + b * LANES;"
        ),
        Mutant(
            "z_does_not_start_at_its_row",
            "b * l->z_stride + (row - l->z_row) * Z_WIDTH;",
            "b * l->z_stride + row * Z_WIDTH;",
            "kernels modules",
        ),
        Mutant("h_0_has_the_stride_of_y", "piece.h_row = follows ? l->y_row : l->outputs;", "piece.h_row = l->y_row;"),
        Mutant(
            "rows_begin_before_the_thread's",
            "piece.n0 = follows ? n0 : most(n0, carried);",
            "piece.n0 = follows ? n0 : carried;",
            "kernels switches modules",
        ),
        Mutant(
            "u_has_the_stride_of_y",
            ".out_row = l->u ? l->hidden : l->y_row}",
            ".out_row = l->u ? l->outputs : l->y_row}",
        ),
        Mutant(
            "c_is_written_a_batch_early",
            "piece.c = FN(has_c)(l) ? (REAL *)l->c + (l->keep ? (N + row) * C : 0)",
            "piece.c = FN(has_c)(l) ? (REAL *)l->c + (l->keep ? row * C : 0)",
        ),
        Mutant("biases_go_into_one_slot", "bias[slot + h.first] += vec_load_part", "bias[slot] += vec_load_part"),
        Mutant(
            "tokens_miss_a_gate",
            "slot < fed; slot++) acc[r][slot] += vec_load(column",
            "slot < fed - 1; slot++) acc[r][slot] += vec_load(column",
        ),
        Mutant("unpacked_product_reads_the_first_chunk", ".a = a + k, .a_row = a_row,", ".a = a, .a_row = a_row,"),
        Mutant("unpacked_token_has_no_stride", "acc[r][slot][lane] += w[lane * I];", "acc[r][slot][lane] += w[lane];"),
        Mutant(
            "tape_of_a_tile_overwrites_the_first",
            "memcpy(FN(z_at)(l, b, piece->row + n), acc,",
            "memcpy(FN(z_at)(l, b, piece->row), acc,",
        ),
        Mutant(
            "gru_reads_h_prev_of_the_first_units",
            "vec_load_part(piece->h_prev + (n + r) * piece->h_row + at, left)",
            "vec_load_part(piece->h_prev + (n + r) * piece->h_row, left)",
        ),
        Mutant(
            "many_unpacked_rows_read_the_first",
            "rows, piece->taken + n * piece->taken_row, piece->taken_row,",
            "rows, piece->taken, piece->taken_row,",
        ),
        Mutant("short_block_of_a_row_is_the_first", "one.p += j * l->panel_stride;", "one.p += 0;"),
        Mutant(
            "threads_step_the_first_blocks",
            "b = back ? b1 - (i + 1) * strands : b0 + i * strands,",
            "b = back ? b1 - (i + 1) * strands : i * strands,",
        ),
        Mutant(
            "first_of_two_pieces_decides",
            "(l->pairs && count == 1 && pieces[0].n1 - pieces[0].n0 == 1)",
            "(l->pairs && count >= 1 && pieces[0].n1 - pieces[0].n0 == 1)",
        ),
        Mutant(
            "traced_c_is_a_batch_early",
            "(const REAL *)l->c + (l->batch + row) * C, (size_t)H",
            "(const REAL *)l->c + row * C, (size_t)H",
            "kernels modules",
        ),
        Mutant(
            "panels_reach_beyond_the_units",
            "const ptrdiff_t count = lane < lanes ? columns - column : 0;",
            "const ptrdiff_t count = columns - column;",
        ),
        Mutant(
            "partial_panel_is_read_in_place",
            "if (l->few_rows && (p + 1) * Z_WIDTH <= columns) {",
            "if (l->few_rows && p * Z_WIDTH <= columns) {",
            "kernels",
        ),
        Mutant(
            "short_block_joins_the_chunk_before",
            "FN(fed)(l, end - 1) < PANEL_SLOTS)",
            "FN(fed)(l, end - 1) < 0)",
            "kernels switches",
            "the slots that it takes in hold zeros on both sides: the line saves their time",
        ),
        Mutant(
            "c_before_is_a_batch_early",
            ".c_before = (const REAL *)l->c + (l->batch + before) * C,",
            ".c_before = (const REAL *)l->c + before * C,",
        ),
        Mutant(
            "one_row_too_many_follows", "const int follows = n < m->carried;", "const int follows = n <= m->carried;"
        ),
        Mutant(
            "lanes_beyond_the_units_keep_what_they_held",
            "z_at[slot] = vec_load_part((const REAL *)&z[slot], left);",
            "z_at[slot] = z[slot];",
            "kernels switches",
        ),
        Mutant("dh_n_misses_a_row", "if (r >= going_on && l->dh_n)", "if (r > going_on && l->dh_n)"),
        Mutant(
            "gru_drops_what_bypasses_the_product",
            "if (FN(reads_h)(l)) acc[r][v] +=",
            "if (FN(reads_h)(l) > 1) acc[r][v] +=",
        ),
        Mutant("dh_0_misses_a_row", "if (n + r >= here) {", "if (n + r > here) {"),
        Mutant(
            "dy_has_the_stride_of_h",
            "(const REAL *)l->dy + (now.row + n + r) * l->dy_row + at",
            "(const REAL *)l->dy + (now.row + n + r) * P + at",
        ),
        Mutant(
            "reverse_follows_the_step_before",
            "const ptrdiff_t before = l->reverse ? row + N : row - N;",
            "const ptrdiff_t before = row - N;",
        ),
        Mutant(
            "first_row_of_a_step_is_of_the_one_before",
            "while (first + i >= l->offsets[t + 1]) t++;",
            "while (first + i > l->offsets[t + 1]) t++;",
        ),
        Mutant("chunks_are_one_chain", "if (first) { /* the sums are zero still */", "if (first || row) {"),
        Mutant("tokens_link_to_others", "later < rows && tokens[later] == tokens[r] ?", "later < rows ?"),
        Mutant(
            "equal_tokens_count_again", "if (first[tokens[r]] != r) continue;", "if (first[tokens[r]] > r) continue;"
        ),
        Mutant(
            "few_rows_clear_one_lane",
            "memset(dw, 0, (size_t)(lanes * I) * sizeof(REAL));",
            "memset(dw, 0, (size_t)I * sizeof(REAL));",
        ),
        Mutant(
            "few_rows_have_one_bias",
            "(REAL *)l->dbias_hh + to, FN(few_sum)(z, rows), lanes);\n        }\n        for (int slot = 0; slot",
            "(REAL *)l->dbias_hh + to, FN(few_sum)(z, 1), lanes);\n        }\n        for (int slot = 0; slot",
        ),
        Mutant(
            "first_chunk_goes_on_from_the_sums",
            "const int from_zero = i == 0 && !l->dweight_add;",
            "const int from_zero = i == 0;",
        ),
        Mutant(
            "h_products_take_the_slots_of_x",
            "x_sums + I, P, h_left, z, FN(feed_of_h)(l, b), rows, from_zero);",
            "x_sums + I, P, h_left, z, FN(feed_of_x)(l, b), rows, from_zero);",
        ),
        Mutant("dx_does_not_add", "if (l->dx_add) acc[r][v] +=", "if (l->dx_add > 1) acc[r][v] +="),
        Mutant(
            "biases_do_not_add",
            "for (int slot = 0; l->dweight_add && l->dbias_ih && slot < x.fed; slot++) {",
            "for (int slot = 0; l->dweight_add > 1 && l->dbias_ih && slot < x.fed; slot++) {",
        ),
        Mutant(
            "scratch_is_too_small",
            "(NAME(tile_count)(l->inputs) + NAME(tile_count)(l->outputs) + NAME(tile_count)(M)) * LEFT_TILE;",
            "(NAME(tile_count)(l->inputs) + NAME(tile_count)(M)) * LEFT_TILE;",
            "checked kernels",
        ),
        Mutant(
            "panel_of_backward_is_a_block_short",
            "sizes->backward_panel = LANES * Z_WIDTH *",
            "sizes->backward_panel = LANES * (Z_WIDTH - 1) *",
            "checked kernels",
        ),
        Mutant(
            "parts_of_groups_are_multiplied_as_whole_ones",
            "if (feed.fed < feed.width || !FN(alike)",
            "if (!FN(alike)",
            "written",
        ),
        Mutant("gates_of_the_groups_first_slot", "gates + first - start * units}", "gates}", "written"),
    ],
    ("kernels/c/layer_row.inc.h", "switches stream"): [
        Mutant("rows_begin_with_zeros", "vec_load_part(before + q * LANES, FN(left)(l, q));", "(vec){0};"),
        Mutant("rows_keep_no_c", "for (ptrdiff_t q = 0; HAS_C && q < vectors; q++) vec_store", "if (0) vec_store"),
        Mutant("rows_take_h_of_two_steps_ago", "now = !now", "now = now"),
        Mutant("whole_vectors_of_a_last_row", "&& row * H + vectors * LANES <= l->rows * H", ""),
        Mutant("whole_vectors_beside_another_direction", "l->y_row == H && ", ""),
        Mutant("rows_of_odd_steps_miss_a_block", "groups - 1 - i : i", "groups - 2 - i : i"),
        Mutant("more_than_half_a_vector_is_half_of_one", "<= HALF_BYTES / REAL_BYTES", "<= HALF_BYTES"),
        Mutant("half_a_block_is_of_the_one_before", "const ptrdiff_t q = b + whole;", "const ptrdiff_t q = b;"),
    ],
    ("kernels/c/layer_program.inc.h", "written"): [
        Mutant(
            "parameters_are_those_of_the_first_units", "i * l->hidden + (q + u) * LANES", "i * l->hidden + u * LANES"
        ),
        Mutant("states_lie_side_by_side_with_h", "c + (k - 1) * FN(unit_width)(l)", "c + (k - 1) * l->hidden"),
        Mutant(
            "h_of_the_first_row",
            "vec_load_part(at + r * row + (q + u) * LANES",
            "vec_load_part(at + (q + u) * LANES",
        ),
        Mutant("h_is_read_beyond_its_row", "const int whole = FN(are_whole)(l, q, units);", "const int whole = 1;"),
        Mutant("sums_of_the_first_block", "acc[at / 4 * plane] + at % 4", "acc[0] + at % 4"),
        Mutant("slots_of_the_first_unit", "at = q % units; slot < slots", "at = 0; slot < slots"),
        Mutant("units_beyond_h", "ceil_div(FN(left)(l, q), LANES));", "group);"),
        Mutant("m_is_that_of_another_row", "(l->keep ? piece->row + n : n) * H", "n * H"),
        Mutant("followers_and_beginners_together", "follows ? least(rows, m->carried - n) : rows", "rows"),
        Mutant("lanes_beyond_h_stay", "end < LANES && slot < p->slots", "end < 0 && slot < p->slots"),
        Mutant("trace_shows_the_first_rows", "(k - 1) * rows * l->hidden + at", "at"),
        Mutant("extras_of_a_sequence_by_row", "(extra.of_sequence ? n : row + n)", "(row + n)", "extra"),
        Mutant("extras_are_those_of_the_first_row", "vec_splat(at[r * extra.row])", "vec_splat(at[0])", "extra"),
        Mutant(
            "gradients_of_values_go_to_the_first_rows",
            "l, (REAL *)to.at + (m->row + n + first) * to.row, to.row, of_extras[i], q, units);",
            "l, (REAL *)to.at + (n + first) * to.row, to.row, of_extras[i], q, units);",
            "tangent",
        ),
        Mutant(
            "parts_of_gradients_of_values_are_lost",
            "to.row, of_extras[i], count, q, units);",
            "to.row, of_extras[i], 0, q, units);",
            "tangent",
        ),
        Mutant("extras_share_a_place", "i++, given += rows * units)", "i++)", "extra"),
        Mutant("extras_are_read_beyond_their_rows", "!alike && FN(are_whole)(l, q, units);", "!alike;", "extra"),
        Mutant(
            "gradients_of_extras_of_the_first_rows",
            "(i * l->rows + m->row + n) * C;",
            "(i * l->rows + n) * C;",
            "extra",
        ),
        Mutant("gradients_of_the_first_extra", "(i * l->rows + m->row + n) * C;", "(m->row + n) * C;", "extra"),
        Mutant(
            "h_is_taken_of_the_first_rows",
            "(REAL *)piece->taken + n * piece->taken_row;",
            "(REAL *)piece->taken;",
            "extra",
        ),
        Mutant(
            "lanes_beyond_h_are_summed",
            "memcpy(before, sum, (size_t)left",
            "memcpy(before, sum, (size_t)LANES",
            "normalized",
        ),
        Mutant("values_of_rows_share_a_place", "w->splats + k * w->vectors;", "w->splats;", "normalized"),
        Mutant("means_are_sums", "r * group, group) / (REAL)l->hidden;", "r * group, group);", "normalized"),
        Mutant("means_of_the_first_units", "u < units; u++) sum += a[u];", "u < 1; u++) sum += a[u];", "normalized"),
        Mutant("values_are_those_of_the_first_row", "vec_splat(values[r])", "vec_splat(values[0])", "normalized"),
        Mutant(
            "values_of_the_first_row",
            "FN(row_values_at)(l, row + r)[k] = ((const",
            "FN(row_values_at)(l, row)[k] = ((const",
            "normalized",
        ),
        Mutant(
            "values_of_rows_are_lost_to_the_product",
            "if (l->m && !to_m) FN(recall_values)(l, &w, kept, rows);",
            "",
            "normalized",
        ),
        Mutant(
            "values_of_the_way_to_m_are_lost", "if (to_m) FN(keep_values)(l, &w, m.row + n, rows);", "", "normalized"
        ),
        Mutant("own_gradients_pile_up", "*own = (vec){0};", "", "normalized"),
        Mutant(
            "own_gradients_of_one_sequence",
            "(n * M + i) * C + q * LANES, M * C}",
            "(n * M + i) * C + q * LANES, 0}",
            "normalized",
        ),
        Mutant("y_of_the_first_step", "l->y) + (m->row + n) * row;", "l->y) + n * row;", "written"),
    ],
    ("fastrnn/extra.py", "extra"): [
        Mutant("pieces_draw_from_the_beginning", "self.first + start * math.prod(self.shape[1:])", "self.first"),
        Mutant("draws_begin_with_a_counter", "[skipped : skipped + count]", "[:count]"),
        Mutant("calls_draw_the_same", "drawn[k] += math.prod(size)", "pass"),
        Mutant("runs_have_masks_of_their_own", "whole.take(sequence, 0)", "whole[: len(sequence)]"),
        Mutant("what_is_kept_is_not_scaled", "1 / (1 - self.p), dtype", "1, dtype"),
        Mutant("gradients_of_one_unit", "gradient.sum(-1, keepdims=True)", "gradient[..., :1]"),
    ],
    ("fastrnn/cells/prepared.py", "prepared"): [
        Mutant(
            "values_are_those_of_the_first_parameter",
            "Operand(Kind.UNIT, j)) for j, node",
            "Operand(Kind.UNIT, 0)) for j, node",
        ),
        Mutant(
            "means_are_of_units_alone",
            "node.op is not None and node.op is not Across.MEAN",
            "node.op is not None",
            reason="a mean of a parameter's units is the same once a call or in every row",
        ),
    ],
    ("fastrnn/ops.py", "prepared"): [
        Mutant(
            "gradients_of_prepared_values_stay",
            "unit=cell.prepare_back(weights.unit, dweights.unit, seen, run)",
            "unit=dweights.unit",
        ),
    ],
    ("fastrnn/cells/noise.py", "extra"): [
        Mutant("zoneout_keeps_the_new", "where(draw > 0.5, old, new)", "where(draw > 0.5, new, old)"),
        Mutant("expectation_the_other_way", "new + p * (old - new)", "old + p * (new - old)"),
    ],
    ("fastrnn/cells/phases.py", "normalized"): [
        Mutant("sums_begin_again_in_each_phase", "place_of = {**seen, **self.rows}", "place_of = {**seen}"),
        Mutant("targets_are_overwritten", "if at in final.difference([other for other, _ in left]):", "if not at:"),
        Mutant("a_state_before_outlives_the_new_one", "lost = [at, Operand(Kind.BEFORE, at.index)]", "lost = [at]"),
        Mutant("regrouped_differences_are_sums", "self.graph.make(Op.SUB, r, v)", "self.graph.make(Op.ADD, r, v)"),
    ],
    ("fastrnn/cells/graph.py", "normalized"): [
        Mutant("means_of_differences_are_of_sums", "found if factor is None else self.mul(factor, found)", "found"),
        Mutant("terms_lose_their_sign", "sign if a.op is Op.ADD else -sign)", "sign)"),
    ],
    ("fastrnn/cells/norms.py", "normalized"): [
        Mutant("epsilon_outside", " / len(centred) + eps)", " / len(centred)) + eps"),
        Mutant("rows_of_tuples_are_apart", "m = mean(_sum(values)) / len(values)", "m = mean(values[0])"),
    ],
    ("kernels/c/program.inc.h", "activations written"): [
        Mutant("lerp_starts_elsewhere", "vec_fma(a, b - c, c)", "vec_fma(a, b - c, b)"),
        Mutant("select_takes_the_other", "vec_select(a, b, c)", "vec_select(a, c, b)"),
        Mutant("difference_of_products", "FOR_ROWS_OF_TWO(vec_fma(a, b, d * e))", "FOR_ROWS_OF_TWO(vec_fma(a, b, d))"),
        Mutant("arrays_share_a_place", "(REAL *)places + k * vectors * LANES", "(REAL *)places"),
        Mutant("minimum_loses_nan", "(vec)((vint)vec_min(a, b) | (vint)(a != a))", "vec_min(b, a)"),
    ],
    ("fastrnn/cells/schedule.py", "written"): [
        Mutant("places_are_written_too_early", "any(self.uses[node] > (node in args) for node in content)", "False"),
        Mutant("lost_slots_are_used", "n.leaf is not None and n.value not in lost}", "n.leaf is not None}", "language"),
        Mutant("difference_the_other_way", "Op.FNMA, (*product.args, c)", "Op.FMA, (*product.args, c)"),
        Mutant("dear_tapes_cost_nothing", "return found if found >= limit", "return 0.0 if found >= limit", "language"),
    ],
    ("fastrnn/cells/library/variants.py", "variants"): [
        Mutant("output_gate_sees_the_old_memory", "a.o + p.p_o * c)", "a.o + p.p_o * prev.c)"),
        Mutant("only_above_is_clipped", "clipped(x, -clip, clip)", "clipped(x, -float('inf'), clip)"),
        Mutant(
            "coupled_gates_are_equal",
            "i, g, o = of_gate(a.i), of_candidate(a.g), of_gate(a.o)\n        f = 1 - i",
            "i, g, o = of_gate(a.i), of_candidate(a.g), of_gate(a.o)\n        f = i",
        ),
    ],
    ("fastrnn/cells/library/scan.py", "saturated"): [
        Mutant("shut_gates_divide_zero_by_zero", "(f + i + 1e-30)", "(f + i)"),
        Mutant("an_infinite_slope_of_the_root", "1e-36 - lost * (2.0 + lost)", "-lost * (2.0 + lost)"),
    ],
    ("fastrnn/cells/library/lstm.py", "saturated"): [
        Mutant(
            "a_normalizer_of_zero_has_a_stabilizer",
            "where(prev.n == 0, a.i, prev.m - softplus(-a.f))",
            "prev.m - softplus(-a.f)",
        ),
    ],
    ("fastrnn/cells/library/activations.py", "variants"): [
        Mutant(
            "numbers_shift",
            "(*map(float, numbers), *defaults[len(numbers) :])",
            "(*defaults[len(numbers) :], *map(float, numbers))",
        ),
        Mutant(
            "onnx_has_another_slope",
            '"HardSigmoid": ("hard_sigmoid", 0.2, 0.5)',
            '"HardSigmoid": ("hard_sigmoid", 1 / 6, 0.5)',
        ),
    ],
    ("fastrnn/cells/derivative.py", "written"): [
        Mutant("last_part_alone", "graph.make(Op.ADD, known[arg], part) if arg in known else part", "part"),
    ],
    ("fastrnn/cells/operations.py", "written"): [
        Mutant("quotients_derivative", "g.make(Op.NEG, g.make(Op.MUL, da, y))", "g.make(Op.MUL, da, y)"),
        Mutant("extremes_share_nothing", "g.make(Op.MUL, g.number(0.5), d), d)", "d, d)", "language"),
    ],
    ("fastrnn/cells/language.py", "written"): [
        Mutant(
            "states_alone_have_gradients",
            "known[node] = graph.make(Op.ADD, known[node], seed) if",
            "known[node] = seed if",
        ),
        Mutant("middle_has_no_gradient", "[*seeds, (middle, graph.leaf(Operand(Kind.MIDDLE, 0)))]", "seeds"),
        Mutant(
            "the_way_to_m_overwrites_the_tape",
            "staying = [(at, n) for n, at in tape.items()]",
            "staying = []",
            "normalized",
        ),
        Mutant(
            "m_feeds_the_first_slots",
            "e.slots[e.of_middle[0]] if of_m else 0",
            "0",
            "normalized",
        ),
        Mutant(
            "parameters_learn_nothing_from_what_is_taken",
            "(at, graph.make(Op.ADD, leaf, more)) for",
            "(at, leaf) for",
            "extra",
        ),
        Mutant(
            "h_is_taken_where_others_take_h", "if set(taken) == all_of_h.difference(second) else ()", "", "extra_torch"
        ),
    ],
    ("fastrnn/onnx/quantized.py", "onnx_quantized"): [
        Mutant("scales_stay_in_onnx_order", 'gates_of("LSTM", "ifgo", scales)', "scales"),
        Mutant("reverse_has_the_forward_weights", "of_integers(integers[key][d]", "of_integers(integers[key][0]"),
    ],
    ("fastrnn/onnx/node.py", "onnx"): [
        Mutant("gates_stay_in_onnx_order", "by_gate[gate] for gate in order", "by_gate[gate] for gate in by_gate"),
        Mutant("padding_comes_first", "lengths - 1 - np.arange", "0 * lengths + x.shape[axis] - 1 - np.arange"),
        Mutant("no_steps_leave_the_state", "s[:, lengths == 0] = 0", "s[:, lengths < 0] = 0"),
        Mutant("peepholes_in_the_order_of_gates", "p_i, p_o, p_f = np.split", "p_i, p_f, p_o = np.split"),
    ],
    ("fastrnn/onnx/scope.py", "onnx"): [
        Mutant("drawn_weights_are_constants", "and node.op_type not in DRAWN and", "and"),
    ],
    ("fastrnn/onnx/session.py", "onnx_session"): [
        Mutant(
            "replaced_weights_are_ignored",
            "self._pieces is None or self._defaults & feed.keys()",
            "self._pieces is None",
        ),
    ],
    ("fastrnn/onnx/pieces.py", "onnx_session"): [
        Mutant("constants_are_missing", "found, left = set(here), list(here)", "found, left = set(here), []"),
        Mutant("names_around_a_branch_are_missing", "in graphs_of(node):\n        own", "in ():\n        own"),
        Mutant("branches_are_swapped", "then if values[0] else otherwise", "otherwise if values[0] else then"),
        Mutant("values_around_a_branch_are_constants", "given = {**self.given, **here}", "given = self.given"),
        Mutant("a_branch_runs_too_soon", "at + (k in self.moved)", "at"),
    ],
    ("fastrnn/onnx/scan.py", "onnx_export"): [
        Mutant(
            "padding_changes_the_state", 'body.add("Where", [mask, new, old])', 'body.add("Where", [mask, new, new])'
        ),
        Mutant("reverse_runs_forward", "scan_input_directions=[reverse]", "scan_input_directions=[0]"),
        Mutant("conditions_lose_their_else", 'g.add("And", [g.add("Not", [mask]), c])', "never"),
    ],
    ("fastrnn/onnx/operators.py", "onnx_export"): [
        Mutant("directions_side_by_side_are_one", "perm=[0, 2, 1, 3]", "perm=[0, 1, 2, 3]"),
        Mutant("no_steps_have_no_state", "[some, new, old]", "[some, new, new]"),
    ],
    ("kernels/c/steps.h", "kernels"): [
        Mutant("more_rows_follow_than_there_were", "return here < before ? here : before;", "return here;"),
        Mutant("reverse_has_rows_of_the_other_end", "l->offsets[t] : t * l->batch;", "l->offsets[t] : s * l->batch;"),
        Mutant(
            "there_is_a_step_after_the_last",
            "if (s < 0 || s >= l->steps) return 0;",
            "if (s < 0 || s > l->steps) return 0;",
        ),
    ],
    ("kernels/c/memory.c", "memory"): [
        Mutant(
            "spare_is_64_bytes_too_small",
            "if (spare && size <= spare->size &&",
            "if (spare && size <= spare->size + 64 &&",
        ),
        Mutant(
            "more_is_kept_than_may_be",
            "memory.kept + h->size > FASTRNN_KEPT;",
            "memory.kept + h->size > 8 * (size_t)FASTRNN_KEPT;",
        ),
        Mutant(
            "resizing_stays_where_there_is_no_room",
            "if (size <= before) return block;",
            "if (size <= before + 64) return block;",
        ),
        Mutant("resizing_copies_half", "memcpy(larger, block, before);", "memcpy(larger, block, before / 2);"),
    ],
    ("kernels/c/pool.c", "threads"): [
        Mutant(
            "denormals_are_taken_as_they_are",
            "enum { FLUSH = 0x8040 };",
            "enum { FLUSH = 0x8000 };",
            "kernels threads memory",
        ),
        Mutant(
            "denormals_stay_flushed",
            "task(context, part);\n    set_control(before);",
            "task(context, part);",
            "kernels threads",
        ),
        Mutant(
            "child_believes_in_its_parent's_workers",
            "pool.workers = 0;\n    atomic_store(&pool.lent, NULL);",
            "atomic_store(&pool.lent, NULL);",
            "threads fork",
        ),
        Mutant(
            "child_finds_the_pool_held",
            "atomic_store(&pool.held, 0);\n    atomic_store(&pool.ticket",
            "atomic_store(&pool.ticket",
            "fork",
        ),
        Mutant(
            "barrier_counts_on",
            "atomic_store(&pool.arrived, 0);\n        atomic_store(&pool.leave",
            "atomic_store(&pool.leave",
        ),
        Mutant(
            "barrier_lets_all_but_one_wait",
            "if (atomic_fetch_add(&pool.arrived, 1) + 1 == parts) {",
            "if (atomic_fetch_add(&pool.arrived, 1) + 2 == parts) {",
            "kernels threads",
        ),
        Mutant(
            "caller_does_parts_that_meet",
            "while (do_part() && !together) {}\n    wait",
            "while (do_part()) {}\n    wait",
            "kernels threads",
            "a part that meets others ends only when all have begun, so that none is left to be done",
        ),
        Mutant(
            "caller_does_not_wait_for_the_others",
            "atomic_load(&pool.unfinished) > 0;)\n        if",
            "atomic_load(&pool.unfinished) > 1;)\n        if",
            "kernels threads",
        ),
        Mutant(
            "pool_is_never_released",
            "void fastrnn_pool_release(void) { atomic_store(&pool.held, 0); }",
            "void fastrnn_pool_release(void) {}",
            reason="a call that finds the pool held runs alone: slower, with the same bits",
        ),
        Mutant("signals_are_not_looked_for", "if (now < watch->due) return 0;", "if (now >= 0) return 0;", "interrupt"),
        Mutant("small_team_does_parts_that_meet", "if (pool.team_size() < its->together) return;", "", "torch_threads"),
    ],
    ("kernels/sequence.pyx", "prepared"): [
        Mutant(
            "members_have_the_rows_of_the_first",
            "((m * rows + r) * H + column) * itemsize",
            "(r * H + column) * itemsize",
        ),
        Mutant(
            "columns_are_the_first_ones",
            "(m * self.outputs + r) * H + column) * itemsize",
            "(m * self.outputs + r) * H) * itemsize",
        ),
        Mutant(
            "gradients_of_parameters_are_added_a_step_late",
            "if due and not has_phases(&layer):",
            "if False:",
            "written",
        ),
    ],
    ("kernels/sequence.pyx", "kernels"): [
        Mutant(
            "no_barrier_before_a_projection",
            "if fastrnn_pool_barrier(job.threads, job.layer.watch):  # u is of all threads",
            "if False:",
            "threads kernels switches",
        ),
        Mutant(
            "blocks_of_steps_have_a_z_of_no_size",
            "if l.z_stride == 0:\n            l.z = NULL",
            "if False:\n            pass",
            "written",
        ),
        Mutant(
            "pieces_of_dx_begin_at_their_first_step", "if rows == 0 or not layer.reverse:", "if rows == 0:", "written"
        ),
        Mutant(
            "chunks_are_summed_too_early", "> row1 if layer.reverse else first < row0:", "> row1 and False:", "written"
        ),
        Mutant("few_rows_are_any_number", "min(FEW_ROWS, FASTRNN_FEW_ROWS, ", "min(FEW_ROWS, ", "switches"),
        Mutant("numbers_are_of_no_machine", "numbers(CACHES, LANES)", "numbers(CACHES, 4)", "machine"),
        Mutant("last_piece_of_dx_is_missing", "if rows >= ROWS_BACK or s == 0:", "if rows >= ROWS_BACK:", "written"),
        Mutant(
            "no_barrier_before_dh_is_projected",
            "if fastrnn_pool_barrier(job.threads, job.layer.watch):  # dh is of all threads",
            "if False:",
            "threads kernels switches",
        ),
        Mutant(
            "no_barrier_before_the_gates_of_a_projection",
            "if job.by_hidden and fastrnn_pool_barrier(job.threads, job.layer.watch):  # du is of all threads",
            "if False:",
            "threads kernels switches",
        ),
        Mutant(
            "no_barrier_after_a_step",
            "fastrnn_pool_barrier(job.threads, job.layer.watch):\n            return\n\n\ncdef class Tape",
            "False:\n            return\n\n\ncdef class Tape",
            "kernels threads",
        ),
        Mutant(
            "no_barrier_after_a_step_back",
            "fastrnn_pool_barrier(job.threads, job.layer.watch):\n            return\n\n\ncdef void projection_",
            "False:\n            return\n\n\ncdef void projection_",
            "kernels threads",
        ),
        Mutant("last_step_is_not_projected", "fastrnn_step_count(layer, highest) - first[0]", "0 - first[0]"),
        Mutant(
            "reverse_projects_from_the_wrong_end", "(last - 1, s) if layer.reverse else (s, last - 1)", "(s, last - 1)"
        ),
        Mutant(
            "kept_tape_starts_at_a_chunk",
            "if not layer.keep:\n        layer.z_row = first[0]",
            "if True:\n        layer.z_row = first[0]",
        ),
        Mutant(
            "final_state_is_of_a_step_too_early",
            "not l.reverse and fastrnn_step_count(l, s) <= n:\n            s -= 1\n        if",
            "not l.reverse and fastrnn_step_count(l, s) < n:\n            s -= 1\n        if",
        ),
        Mutant(
            "missing_dc_is_looked_for_in_dh",
            "if dstate[1 + k] is not None:",
            "if dstate[k] is not None:",
        ),
        Mutant(
            "dh_n_of_sequences_without_steps_is_the_first's",
            "<char *> one.layer.dh_n + begun * h_row,",
            "<char *> one.layer.dh_n,",
            "kernels modules",
        ),
        Mutant(
            "chunks_are_cut_a_row_early",
            "fastrnn_step_count(l, first - 1) <= FASTRNN_GRADIENT_ROWS:",
            "fastrnn_step_count(l, first - 1) < FASTRNN_GRADIENT_ROWS:",
        ),
        Mutant(
            "reverse_chunks_begin_elsewhere",
            "row = fastrnn_step_row(l, last - 1 if l.reverse else first)",
            "row = fastrnn_step_row(l, first)",
        ),
        Mutant(
            "few_rows_overwrite_what_is_added_to",
            "l.hidden // 20)) and not l.dweight_add",
            "l.hidden // 20))",
            "kernels modules switches",
        ),
        Mutant(
            "stride_of_one_row_is_taken",
            "axis = 0  # the other one's stride may be anything",
            "axis = 1",
            "kernels modules",
        ),
        Mutant(
            "stepper_takes_any_batch",
            "(self.dimensions == 1 or a.shape[a.ndim - 2] == self.batch)",
            "True",
            "stream input",
        ),
        Mutant(
            "kept_sizes_forget_the_initial_state",
            "sizes.append((batch + rows) * c_width",
            "sizes.append(rows * c_width",
        ),
        Mutant("recalled_u_is_the_tape", "l.u = pointer(memory[len(memory) - 1])", "l.u = pointer(memory[0])"),
        Mutant("unaligned_tapes_are_used", "cnp.PyArray_DATA(array) % 64 == 0:", "cnp.PyArray_DATA(array) % 4 == 0:"),
        Mutant(
            "threads_share_panels_of_a_gradient",
            "m.panels = <char *> m.panels + part * p1 * FASTRNN_GRADIENT_ROWS",
            "m.panels = <char *> m.panels + 0 * p1 * FASTRNN_GRADIENT_ROWS",
            "kernels threads switches",
            "parts overlap only where chunks differ in rows, and then in a race",
        ),
        Mutant(
            "threads_share_scratch",
            "layer.scratch = <char *> layer.scratch + part * job.sizes.backward_scratch",
            "layer.scratch = <char *> layer.scratch + 0 * job.sizes.backward_scratch",
            "kernels threads",
        ),
        Mutant(
            "refresh_loses_c",
            "before.h_0, before.y, before.c, before.u\n",
            "before.h_0, before.y, before.y, before.u\n",
            "stream",
        ),
    ],
    ("fastrnn/ops.py", "modules"): [
        Mutant(
            "packed_cache_ignores_the_backend",
            "if by is not backend or under != stamp:",
            "if under != stamp:",
            "switches stateful modules",
        ),
        Mutant("packed_cache_ignores_the_stamp", "if by is not backend or under != stamp:", "if by is not backend:"),
        Mutant(
            "held_weights_are_packed",
            'if (stamp is None or not packs) and weights.precision == "float32":',
            'if not packs and weights.precision == "float32":',
        ),
        Mutant(
            "shapes_are_those_that_others_set",
            "x, state, weights = x.view(), tuple([s.view() for s in state]), Weights._make(_views(weights))",
            "pass",
            "safety",
        ),
        Mutant("one_token_may_be_negative", "if own.size and not 0 <= (low", "if own.size and not -1 <= (low", "input"),
        Mutant(
            "foreign_byte_order_is_taken",
            "if flags.c_contiguous and flags.aligned and given.isnative:",
            "if flags.c_contiguous and flags.aligned:",
            "input modules",
        ),
        Mutant(
            "lengths_may_exceed_the_steps",
            "if batch and not 0 <= (low := int(array.min())) <= (high := int(array.max())) <= steps:",
            "if batch and not 0 <= (low := int(array.min())) <= (high := int(array.max())) <= steps + 1:",
            "input",
        ),
        Mutant(
            "any_layout_is_ready", "or not value.flags.carray\n", "or value.flags.carray is None\n", "input modules"
        ),
        Mutant(
            "modules_ignore_their_threads",
            "return resolve(backend), num_threads or allowed_threads()",
            "return resolve(backend), allowed_threads()",
            "threads modules",
        ),
    ],
    ("fastrnn/stack.py", "modules"): [
        Mutant(
            "checkpoints_do_not_say_how_many_rows",
            "its_dy, dstates_0, its_dx, dweights, rows, of_x",
            "its_dy, dstates_0, its_dx, dweights, None, of_x",
            "switches",
        ),
        Mutant("checkpoints_draw_anew", "self.dropout.again(segment.random)", "self.dropout"),
        Mutant(
            "dx_is_of_one_direction",
            "its_dy, dstates[at : at + 1], dx, of_x",
            "its_dy, dstates[at : at + 1], of_x",
        ),
        Mutant(
            "gradients_of_states_in_reverse", "dstates_0 = of_states + dstates_0", "dstates_0 = dstates_0 + of_states"
        ),
        Mutant(
            "dropout_does_not_scale",
            "result *= 1 / (1 - self.p) if self.p < 1 else 0",
            "result *= 1 if self.p < 1 else 0",
        ),
        Mutant(
            "directions_swap_their_states",
            "state, extra = states[2 * layer + reverse], setting",
            "state, extra = states[2 * layer + 1 - reverse], setting",
        ),
        Mutant(
            "reverse_segments_lie_at_the_start",
            "(steps - last, steps - first) if reverse else (first, last)",
            "(first, last)",
        ),
        Mutant("every_layer_adds_to_dx", "its_dx = dx if layer == 0 else None", "its_dx = dx"),
        Mutant("trace_of_directions_goes_on_with_one", "x = both if halves else h", "x = h"),
        Mutant("dropout_is_undone_by_the_layer_above", "kept = self.kept[layer]\n", "kept = self.kept[layer - 1]\n"),
    ],
    ("fastrnn/steps.py", "modules kernels"): [
        Mutant(
            "sequences_run_a_step_longer",
            "running = step < lengths[order]",
            "running = step <= lengths[order]",
        ),
        Mutant(
            "groups_are_cut_a_row_early",
            "while first and rows + counts[first - 1] <= SUMMED_ROWS:",
            "while first and rows + counts[first - 1] < SUMMED_ROWS:",
            "kernels modules",
        ),
        Mutant("padding_keeps_what_memory_held", "padded[self._left_out] = 0", "padded[self._left_out] *= 1"),
        Mutant("sequences_end_where_others_do", "ranks[order] = np.arange(N)", "ranks[...] = order"),
        Mutant("resets_of_masked_steps_are_lost", "cut = resets.copy()", "cut = resets & run", "masks"),
        Mutant("reset_before_the_first_step_is_lost", "np.where(resets[:1].any(0), N, 0)", "0 * N", "masks"),
        Mutant("last_outputs_pass_resets", "kept = still & ~resets,", "kept = still.copy(),", "masks"),
        Mutant(
            "one_run_learns_for_all", "np.add.reduceat(dstate_0[order], firsts)", "dstate_0[order][firsts]", "masks"
        ),
    ],
    ("fastrnn/stream.py", "stream"): [
        Mutant(
            "reset_leaves_c",
            "for kept in its:\n                kept[chosen] = 0",
            "for kept in its[:1]:\n                kept[chosen] = 0",
        ),
        Mutant("state_is_set_from_the_first_layer", "kept[...] = given[layer]", "kept[...] = given[0]"),
        Mutant(
            "reset_takes_a_row_too_many",
            "if not 0 <= low <= high < self.batch_size:",
            "if not 0 <= low <= high <= self.batch_size:",
        ),
        Mutant(
            "stream_follows_the_parameters",
            "Weights._make(None if w is None else w.copy() for w in each)",
            "Weights._make(each)",
        ),
        Mutant("out_may_be_read_only", "if not out.flags.carray:", "if not out.flags.c_contiguous:", "stream input"),
        Mutant(
            "refresh_does_nothing",
            "self._stepper.load([self._prepare(its) for its in weights])",
            "pass",
            "stream stateful",
        ),
    ],
    ("fastrnn/tangent.py", "tangent"): [
        Mutant(
            "initial_states_get_nothing_from_sums", "of_initial[sequences] = drows[to]", "of_initial[sequences] = 0"
        ),
        Mutant("last_rows_get_what_was_there", "of_rows[rows] = 0", "of_rows[rows] = drows[rows]"),
        Mutant("reset_gate_takes_a_sum_without_its_bias", "self.hh[2 * H :].T, bias)", "self.hh[2 * H :].T)"),
    ],
    ("fastrnn/cells/tangents.py", "tangent"): [
        Mutant("candidate_has_another_derivative", "g = a.g * (1 - e.g * e.g)", "g = a.g * (1 - e.g)"),
        Mutant("memory_is_not_a_value", '"c_prev": prev.c, "k": k', '"c_prev": 0 * prev.c, "k": k'),
    ],
    ("fastrnn/stack_tangent.py", "tangent"): [
        Mutant("dropout_of_tangents_is_forgotten", "dropout.scale(x_tangent, mask)", "x_tangent"),
    ],
    ("fastrnn/modules.py", "modules"): [
        Mutant(
            "tape_refers_to_the_caller's_state",
            "states = [tuple([s.copy() for s in state_0]) for state_0 in states]",
            "states = [tuple(state_0) for state_0 in states]",
        ),
        Mutant(
            "y_can_be_written",
            "y.flags.writeable = False\n        tape",
            "y.flags.writeable = rows.batch_sizes is not None\n        tape",
        ),
        Mutant(
            "tapes_serve_two_threads",
            "kept, self._kept = self._kept, None",
            "kept = self._kept",
            "safety",
            "seen only where two threads meet between two lines: a test meets that by chance",
        ),
        Mutant(
            "parameters_are_drawn_too_small",
            "uniform(1 / math.sqrt(self.hidden_size))",
            "uniform(1 / self.hidden_size)",
        ),
        Mutant(
            "copies_share_caches", '_CACHES = ("_weights", "_entrance",', '_CACHES = ("_entrance",', "modules stateful"
        ),
    ],
    ("fastrnn/rows.py", "modules masks"): [
        Mutant("zeros_of_a_larger_batch_serve", "if of_size != N:", "if of_size < N:"),
        Mutant("tokens_in_the_padding_are_looked_at", "padded=not whole", "padded=False"),
        Mutant("reverse_begins_as_forward", "begin(pool, at % D == 1)", "begin(pool, False)"),
        Mutant("reverse_ends_as_forward", "end(state, pool, at % D == 1)", "end(state, pool, False)"),
        Mutant("gradients_end_as_forward", "into(d, at % D == 1)", "into(d, False)"),
        Mutant(
            "gradients_begin_as_forward", "ragged.into_pool(d_0, d_n, at % D == 1)", "ragged.into_pool(d_0, d_n, False)"
        ),
        Mutant("h_0_of_resets_learns_nothing", "d[:N] + d[N:]", "d[:N]"),
        Mutant("release_works_on_the_caller's_dy", "dy = dy.copy()", "dy = dy[:]", "masks"),
    ],
    ("fastrnn/cell_modules.py", "cells"): [
        Mutant("cell's_zeros_of_a_larger_batch_serve", "if of_size != batch_size:", "if of_size < batch_size:"),
        Mutant(
            "cell's_tape_refers_to_the_caller's_state",
            "states = tuple([s.copy() for s in states])  # the tape",
            "states = tuple(states)  # the tape",
        ),
    ],
    ("fastrnn/parameters.py", "modules cells"): [
        Mutant(
            "one_holder_is_overlooked",
            "if max(map(sys.getrefcount, parameters.values())) > _OWN_REFERENCES:",
            "if max(map(sys.getrefcount, parameters.values())) > _OWN_REFERENCES + 1:",
        ),
        Mutant(
            "weak_references_are_overlooked", "if any(map(weakref.getweakrefcount, parameters.values())):", "if False:"
        ),
        Mutant(
            "handing_out_does_not_count",
            "arrays = Parameters(self)\n        self.handed_out = next(_handings_out)",
            "arrays = Parameters(self)\n        self.handed_out = 1",
            "modules stateful",
        ),
        Mutant(
            "what_a_frozen_module_hands_out_can_be_written",
            '{"data": (values.ctypes.data, True)}',
            '{"data": (values.ctypes.data, False)}',
            "modules",
        ),
        Mutant(
            "a_frozen_module_stays_where_it_was",
            "            self[name] = values\n        self.to_read",
            "        self.to_read",
            "modules",
        ),
        Mutant(
            "a_pickler_is_given_what_is_frozen", "iter((self if self.to_read is None else self.to_read)", "iter((self)"
        ),
        Mutant("unexpected_names_are_ignored", "if missing or unexpected:", "if missing:", "modules input"),
        Mutant(
            "state_dict_is_live",
            "return {name: value.copy() for name, value in self._parameters.items()}",
            "return {name: value for name, value in self._parameters.items()}",
            "modules stateful layers",
        ),
        Mutant(
            "pickling_does_not_hand_out",
            "self._parameters.hand_out()  # the state has",
            "dict(self._parameters)  # the state has",
        ),
    ],
    ("fastrnn/torch/members.py", "torch_func"): [
        Mutant(
            "sequences_begin_with_nothing", "h_before[:, :, to] = initial[:, :, sequences]", "h_before[:, :, to] = 0"
        ),
        Mutant("members_begin_as_the_forward_direction", "s[:, direction] for s in states", "s[:, 0] for s in states"),
        Mutant(
            "groups_are_blocks_of_rows", "(M, R // groups, groups, K).swapaxes(1, 2)", "(M, groups, R // groups, K)"
        ),
        Mutant("members_are_put_in_order_twice", "return tensor.contiguous()", "return tensor"),
    ],
    ("fastrnn/torch/levels.py", "torch_func"): [
        Mutant("dead_levels_stay", "functorch.unwrap_if_dead(each) if isinstance(each, Tensor) else each", "each"),
        Mutant(
            "nothing_is_recorded_below", "with torch.enable_grad(), _set_fwd_grad_enabled(True), level", "with level"
        ),
    ],
    ("fastrnn/torch/transforms.py", "torch_func"): [
        Mutant("a_level's_axis_is_the_slowest", "(count, rest) if put == axis else (rest, count)", "(count, rest)"),
        Mutant(
            "groups_of_a_level_share_no_weights",
            "found[at].sum(int(call.members))",
            "found[at].select(int(call.members), 0)",
        ),
        Mutant(
            "kept_tapes_serve_any_backward", "if problem.states[0][0].shape[:2] == (members, sequences):", "if True:"
        ),
    ],
    ("fastrnn/torch/modules.py", "torch"): [
        Mutant(
            "autocast_forgets_its_precision",
            "in_precision(self.mode.lower(), precision)]",
            "self.mode.lower()]",
            "torch_narrow",
        ),
        Mutant(
            "int8_is_for_training",
            "if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):",
            "if False:",
            "torch_narrow",
        ),
        Mutant(
            "brief_calls_have_no_precision",
            'not packed and its == "float32" and self._is_brief(x)',
            "not packed and self._is_brief(x)",
            "torch_narrow",
        ),
        Mutant("one_step_is_transposed", "x.shape[:2] if self.batch_first else x.shape[1::-1]", "x.shape[:2]"),
        Mutant(
            "brief_calls_know_no_transforms",
            'is_autocast_enabled("cpu") or _is_transformed()',
            'is_autocast_enabled("cpu")',
        ),
    ],
    ("fastrnn/torch/packed.py", "torch_narrow"): [
        Mutant("weights_are_packed_for_good", "if before == stamp:", "if before:"),
        Mutant("versions_are_not_looked_at", "t.data_ptr(), t._version, t.shape", "t.data_ptr(), t.shape"),
        Mutant(
            "samples_are_not_looked_at",
            "samples = [ops.sample(backend, a) for a in weights if a is not None]",
            "samples = None",
        ),
        Mutant(
            "precisions_share_what_is_packed", "stamp = backend, cell.name, precision,", "stamp = backend, cell.name,"
        ),
        Mutant("weights_are_packed_each_time", "_kept[tensors[0]] = stamp, its", "pass"),
    ],
    ("fastrnn/torch/precision.py", "torch_narrow"): [
        Mutant(
            "bfloat16_is_in_software",
            'return "bfloat16" if kernels_multiply_bfloat16() else',
            'return "bfloat16" if 1 else',
        ),
        Mutant("float16_is_bfloat16", "    if low is not torch.bfloat16:\n", "    if low not in LOW:\n"),
    ],
    ("fastrnn/torch/accelerate.py", "torch_narrow"): [
        Mutant("restored_modules_keep_a_precision", 'module.__dict__.pop("_precision", None)', "pass"),
        Mutant(
            "precisions_are_checked_too_late",
            "                check_precision(module, precision)\n",
            "                pass\n",
        ),
    ],
    ("fastrnn/torch/operator.py", "torch"): [
        Mutant(
            "second_derivatives_take_narrow_tapes",
            "ctx.fresh if wide(ctx.cell) == ctx.cell else []",
            "ctx.fresh",
            "torch_narrow",
        ),
        Mutant("modified_y_goes_unnoticed", "problem, tapes = ctx.fresh.pop()", "problem, tapes = ctx.fresh[0]"),
        Mutant(
            "users_get_the_tape's_y",
            "return torch.from_numpy(y) if inner else _copy(y), *_tensors(states_n)",
            "return torch.from_numpy(y), *_tensors(states_n)",
        ),
        Mutant(
            "y_between_layers_is_copied",
            "return torch.from_numpy(y) if inner else _copy(y), *_tensors(states_n)",
            "return _copy(y), *_tensors(states_n)",
        ),
        Mutant("x_is_copied", 'self.x = _array(x, "x")', 'self.x = _array(x, "x").copy()', "torch_memory"),
        Mutant(
            "dx_is_copied",
            "return torch.from_numpy(dx) if of_x else None",
            "return _copy(dx) if of_x else None",
            "torch_memory",
        ),
        Mutant("hooked_y_is_the_tape's", "y = y.clone()", "pass", "torch_memory"),
        Mutant("freed_storages_are_read", "array.nbytes <= held", "True", "torch_memory"),
        Mutant(
            "batch_sizes_are_read_again",
            "batch_sizes.numpy().copy()",
            "batch_sizes.numpy()",
            "torch_memory",
            "backends keep copies of their own: it takes another thread that writes between the look and the call",
        ),
        Mutant("tape_in_tensors_serves_twice", "        flag.fill_(USED)\n", "", "torch compile"),
        Mutant(
            "both_directions_have_one_dstate",
            "None if d is None else d[direction] for d in dstates_n",
            "None if d is None else d[0] for d in dstates_n",
        ),
        Mutant(
            "dx_is_of_the_reverse_direction",
            "tapes[direction], its_dy, its_dstate_n, dx, of_x=of_x",
            "tapes[direction], its_dy, its_dstate_n, of_x=of_x",
        ),
        Mutant(
            "torch's_threads_are_ignored",
            "        threads = torch.get_num_threads()\n",
            "        threads = None\n",
            "torch torch_threads",
        ),
        Mutant(
            "hooks_do_not_see_the_tape", "[] if hooked else [(problem, tapes)]", "[(problem, tapes)]", "torch_recurrent"
        ),
        Mutant("x_has_a_gradient_that_nobody_wants", "ctx.needs_input_grad[6], dextra)", "True, dextra)"),
        Mutant(
            "halves_of_y_are_swapped", "return array[..., :P], array[..., P:]", "return array[..., P:], array[..., :P]"
        ),
        Mutant(
            "biases_are_swapped",
            "bias_ih, bias_hh = arrays[2:] or (None, None)",
            "bias_hh, bias_ih = arrays[2:] or (None, None)",
        ),
    ],
    ("fastrnn/keras/layers.py", "keras_layers"): [
        Mutant("gates_of_a_gru_stay_as_they_are", "ops.concatenate([r, z, h], axis=-1)", "columns"),
        Mutant("second_bias_is_the_first_again", "[bias, ops.zeros_like(bias)]", "[bias, bias]"),
        Mutant(
            "stateful_state_is_not_copied",
            "states = [ops.copy(state) for state in states]",
            "pass",
        ),
        Mutant(
            "last_output_of_a_masked_step_is_held",
            "ops.where(ops.expand_dims(run, 1), h_n, ops.zeros_like(h_n))",
            "h_n",
        ),
        Mutant("every_reason_is_said_each_time", "said.add(reason)", "pass"),
        Mutant(
            "other_activations_are_tanh",
            'return CELLS["lstm"] if (function.name, gate.name) == USUAL else',
            'return CELLS["lstm"] if gate.name == USUAL[1] else',
        ),
        Mutant("recurrent_dropout_is_left_out", "function(a.h(e.drop(prev.h)))", "function(a.h)"),
        Mutant(
            "dropout_of_gates_is_shared", "columns = ops.split(kernel, gates, axis=1)", "columns = [kernel] * gates"
        ),
    ],
    ("fastrnn/keras/on_torch.py", "keras_layers"): [
        Mutant("mask_is_not_turned", "None if mask is None else mask.flip(1)", "mask"),
        Mutant("masked_steps_are_zero", '"last" if spec.hold else "zero"', '"zero"'),
        Mutant("dropout_of_h_is_of_other_sequences", "array[order] for array in its", "array for array in its"),
    ],
    ("fastrnn/keras/accelerate.py", "keras_layers"): [
        Mutant("subclasses_are_taken", "if type(layer) in classes:", "if isinstance(layer, tuple(classes)):"),
    ],
    ("fastrnn/training/keras_weights.py", "keras"): [
        Mutant("configurations_are_not_looked_at", "            _check_layer(rnn, its)\n", "            pass\n"),
        Mutant("unknown_settings_are_ignored", "sorted(set(config) - set(wanted) - ASIDE)", "[]"),
        Mutant("directions_of_a_file_are_swapped", '("layer", "backward_layer")', '("backward_layer", "layer")'),
    ],
    ("fastrnn/training/optimizers.py", "layers"): [
        Mutant("adam_corrects_as_at_the_first_step", "math.sqrt(1 - beta2**self.steps)", "math.sqrt(1 - beta2)"),
        Mutant(
            "decay_ignores_the_learning_rate",
            "return 1 - self.learning_rate * self.weight_decay",
            "return 1 - self.weight_decay",
        ),
        Mutant("momentum_is_forgotten", "velocity *= self.momentum", "velocity *= 0"),
        Mutant(
            "rmsprop_averages_gradients",
            "np.multiply(grad, grad, out=scratch)",
            "np.multiply(grad, abs(grad), out=scratch)",
        ),
        Mutant("loaded_steps_are_lost", "self.steps = check_count(", "self.steps = 0 * check_count(", "layers loop"),
    ],
    ("fastrnn/training/clipping.py", "layers"): [
        Mutant(
            "clipping_begins_late",
            "if norm + 1e-6 > max_norm and math.isfinite(norm):",
            "if norm > 2 * max_norm and math.isfinite(norm):",
            "layers loop text",
        ),
    ],
    ("fastrnn/training/losses.py", "losses"): [
        Mutant("mse_has_half_a_gradient", "difference *= 2 * share", "difference *= share"),
        Mutant(
            "ignored_targets_count_in_the_mean",
            "share = _share(reduction, flat.size, none)",
            "share = _share(reduction, targets.size, none)",
        ),
        Mutant("logistic_loss_overflows", "small = np.exp(-np.abs(logits))", "small = np.exp(-logits)"),
    ],
    ("fastrnn/training/schedules.py", "layers"): [
        Mutant("patience_is_one_less", "if self._waited > self.patience:", "if self._waited >= self.patience:"),
        Mutant("warmup_goes_on_from_its_end", "return self.then(step - self.steps)", "return self.then(step)"),
    ],
    ("fastrnn/training/layers.py", "layers"): [
        Mutant("padding_learns", "dweight[self.padding_idx] = 0", "dweight[self.padding_idx] += 0"),
    ],
    ("kernels/sequence.pyx", "ensembles"): [
        Mutant("members_are_all_the_first", "k * group.moved[i].by_member +", "0 * group.moved[i].by_member +"),
        Mutant("members_in_turns_share_memory", "slot * group.moved[i].by_slot", "0 * group.moved[i].by_slot"),
        Mutant("the_last_member_of_a_thread_is_left_out", "part + 1), count, i", "part + 1) - 1, count, i"),
        Mutant(
            "x_of_members_is_always_shared",
            "move(job, &l.x, 0 if shared else stride_of(x), 0)",
            "move(job, &l.x, 0, 0)",
        ),
        Mutant(
            "what_the_rows_of_members_are_projected_to_is_the_first's",
            "rows_ahead(job, layers[i], s, &row)",
            "rows_ahead(job, layers[0], s, &row)",
        ),
        Mutant(
            "members_one_after_the_other_are_the_first",
            "member_of(&its, job, k)\n        run_plan",
            "member_of(&its, job, 0)\n        run_plan",
        ),
        Mutant(
            "packed_units_are_the_first_member's",
            "move(&job, &job.layer.unit, stride_of(packed.unit), 0)",
            "move(&job, &job.layer.unit, 0, 0)",
        ),
    ],
    ("kernels/c/layer_row.inc.h", "ensembles"): [
        Mutant("turns_begin_with_the_first_layer's_state", ": layers[m]->h_0;", ": l->h_0;"),
        Mutant("turns_all_keep_one_c", "vec_store((REAL *)layers[m]->c", "vec_store((REAL *)l->c"),
    ],
    ("fastrnn/groups.py", "ensembles heads"): [
        Mutant(
            "a_shared_x_has_the_first_member's_gradient",
            "return np.add.reduce(found, 0), dstate_0",
            "return found[0], dstate_0",
        ),
        Mutant("dx_is_not_added_to", "dx += np.add.reduce(found, 0)", "dx[...] = np.add.reduce(found, 0)"),
        Mutant(
            "members_draw_each_other's_dropout",
            "found = [dropout(its, layer) for dropout, its in",
            "found = [self.members[0](its, layer) for _, its in",
        ),
        Mutant("heads_lie_on_the_first_columns", "whole[:, k, :, k] =", "whole[:, k, :, 0] ="),
        Mutant(
            "values_of_units_are_the_first_head's",
            "each if each.shape[1] == 1 else _by_columns(each, K)",
            "each if each.shape[1] == 1 else _by_columns(each, K)[:1].repeat(K, 0)",
        ),
        Mutant("weights_of_heads_are_packed_once", "if by is not backend or under != stamp:", "if by is not backend:"),
    ],
    ("kernels/sequence.pyx", "layers"): [
        Mutant("embedding_counts_a_token_once", "row[e] += rows[r * E + e]", "row[e] = rows[r * E + e]"),
        Mutant("embedding_takes_any_token", "if not 0 <= tokens[r] < V:", "if not tokens[r] < V:"),
        Mutant(
            "adam_forgets_eps_in_float",
            "p[i] = p[i] * kept - m / (sqrtf(v) / correction + eps)",
            "p[i] = p[i] * kept - m / (sqrtf(v) / correction)",
        ),
        Mutant(
            "adam_writes_what_is_read_only",
            "or not (a is grad or cnp.PyArray_ISWRITEABLE(a))",
            "or not (a is not None)",
        ),
    ],
    ("fastrnn/training/fitting.py", "composition"): [
        Mutant(
            "fit_asks_for_the_gradient_of_data",
            'less = {"of_x": False} if getattr(self.model',
            "less = {} if getattr(self.model",
        ),
    ],
    ("fastrnn/training/composition.py", "composition"): [
        Mutant("layers_below_the_lowest_find_dx", "ended = name == lowest and not of_x", "ended = False"),
        Mutant(
            "resets_are_not_handed_on",
            'y, state_n, tape = self.rnn.forward(x, states.get(""), **which)',
            'y, state_n, tape = self.rnn.forward(x, states.get(""), **(dict(which) | {"resets": None}))',
        ),
        Mutant(
            "gradients_of_final_states_are_lost",
            'self.rnn.backward(tape, dy, dstates.get(""), **less)',
            "self.rnn.backward(tape, dy, **less)",
        ),
        Mutant("masked_steps_are_seen", "        padding = ~mask\n", "        padding = np.zeros_like(mask)\n"),
        Mutant("gradients_of_padding_come_back", "dy = clear(dy, padding)", "dy = clear(dy, None)", "pooling"),
    ],
    ("fastrnn/training/pooling.py", "pooling"): [
        Mutant(
            "mean_is_of_all_steps",
            "count = np.maximum(counted.sum(0), 1)[:, None].astype(x.dtype)",
            "count = np.full((x.shape[1], 1), len(x), x.dtype)",
        ),
        Mutant("resets_begin_a_step_late", "counted[:-1] &= begun[1:] == 0", "counted &= begun == 0"),
        Mutant(
            "masked_resets_do_not_count", '(("resets", resets), ("mask", mask))', '(("mask", mask), ("resets", resets))'
        ),
        Mutant(
            "shares_have_no_gradient_of_their_sum",
            'dscores = shares * (dshares - np.einsum("tn,tn->n", shares, dshares))',
            "dscores = shares * dshares",
        ),
    ],
    ("fastrnn/training/convolution.py", "pooling"): [
        Mutant("even_kernels_see_one_step_earlier", "else (self.kernel_size - 1) // 2", "else self.kernel_size // 2"),
        Mutant(
            "weights_gradient_has_its_axes_swapped",
            "np.ascontiguousarray(dweight.swapaxes(1, 2))",
            "dweight.reshape(O, I, k)",
        ),
    ],
    ("fastrnn/training/normalization.py", "pooling"): [
        Mutant("mean_has_no_gradient", "(d - d.mean(-1, keepdims=True) - standard * along)", "(d - standard * along)"),
    ],
    ("fastrnn/training/activations.py", "pooling"): [
        Mutant(
            "softmax_has_a_diagonal_derivative", "y * (dy - np.sum(y * dy, axis=-1, keepdims=True))", "y * dy * (1 - y)"
        ),
    ],
    ("fastrnn/training/model.py", "training_cells"): [
        Mutant("masked_targets_count", 'counts &= np.asarray(which["mask"])', "pass"),
    ],
    ("fastrnn/training/cells.py", "training_cells"): [
        Mutant("any_cell_of_ones_own_is_taken", "or given.name != name:", "or False:"),
    ],
    ("fastrnn/training/architecture.py", "saving"): [
        Mutant("sizes_of_a_file_are_believed", "and value > largest:", "and value < 0:"),
        Mutant(
            "subclasses_are_saved_as_what_they_are_not",
            "if _classes().get(kind) is not type(module):",
            "if kind not in _classes() and not isinstance(module, Parametrized):",
        ),
    ],
    ("fastrnn/training/batches.py", "text"): [
        Mutant(
            "targets_are_the_inputs",
            "return tokens[:-1], tokens[1:].copy()",
            "return tokens[:-1], tokens[:-1].copy()",
            "text loop",
        ),
        Mutant(
            "every_window_carries_on",
            "return Batch(*self[k], None, carries_on=k > 0)",
            "return Batch(*self[k], None, carries_on=True)",
            "text loop",
        ),
    ],
    ("fastrnn/training/sampling.py", "text"): [
        Mutant(
            "nucleus_is_a_token_short",
            "np.searchsorted(cumulative, top_p * cumulative[-1])",
            "np.searchsorted(cumulative, top_p * cumulative[-1]) - 1",
        ),
        Mutant("lines_go_on_from_the_last", "None if anew else state)", "state)"),
    ],
    ("fastrnn/training/defaults.py", "defaults"): [
        Mutant("verses_are_a_list", "<= LIST_WORDS * len(lines)", "<= 9 * len(lines)"),
        Mutant("small_texts_are_read_for_ever", "30 * reading)", "9e9 * reading)"),
        Mutant(
            "slow_machines_have_the_models_of_fast_ones",
            "60 * minutes * _work(kind, settings) / seconds",
            "60 * minutes * CORE",
        ),
        Mutant(
            "options_are_overridden",
            "    return Settings(**chosen | dict(given))",
            "    return Settings(**dict(given) | chosen)",
        ),
    ],
    ("fastrnn/training/text.py", "defaults"): [
        Mutant("blocks_tear_lines", "cuts[k] += reach[0] + 1", "cuts[k] += 0 * reach[0]"),
        Mutant("blocks_are_always_the_same", "np.random.default_rng(seed)", "np.random.default_rng(0)"),
    ],
    ("fastrnn/training/loop.py", "loop"): [
        Mutant(
            "state_of_the_last_window_is_lost",
            "self._state if part.carries_on else None, part.lengths",
            "None, part.lengths",
        ),
        Mutant("best_is_the_last", 'self.best = dict(groups["best"])', 'self.best = dict(groups["model"])'),
        Mutant("states_of_other_processes_are_lost", "sum_in_order(self._group, every)", "pass", "distributed"),
    ],
    ("fastrnn/training/running.py", "loop"): [
        Mutant("patience_waits_once_more", ">= self.patience", "> self.patience"),
        Mutant(
            "gradients_are_not_clipped",
            "norm = clip_global_norm(buffers, self._clip)",
            "norm = clip_global_norm(buffers, math.inf)",
            "fit",
        ),
        Mutant("dropout_is_drawn_by_the_seed_alone", "else (seed, self.step)", "else (seed, 0)", "loop"),
        Mutant("dropout_of_every_step_is_the_same", "else (seed, self.step)", "else (seed, 0)", "fit"),
        Mutant(
            "processes_drop_the_same", "(seed, self.step, rank) if rank", "(seed, self.step) if rank", "distributed"
        ),
        Mutant("processes_stop_one_by_one", "bool(told[1])", "self.asks_to_stop()", "distributed"),
    ],
    ("fastrnn/training/fitting.py", "fit"): [
        Mutant("epochs_are_in_one_order", "(self._seed, epoch)", "(self._seed, 0)"),
        Mutant("padding_has_a_gradient", "dy[real] = drows", "dy[...] = drows.mean()"),
        Mutant("who_joins_forgets_the_epochs", 'self.epochs = there["epochs"]', "pass", "distributed"),
    ],
    ("fastrnn/distributed/group.py", "distributed"): [
        Mutant("any_order_of_sums_will_do", 'if getattr(group, "ordered", False):', "if True:"),
        Mutant("a_part_is_not_added_up", "self._gather(add_up(found), rows)", "self._gather(found[0], rows)"),
    ],
    ("fastrnn/distributed/sharing.py", "distributed"): [
        Mutant("parts_count_the_same", "view.dtype.type(share)", "view.dtype.type(0.5)"),
        Mutant(
            "sums_wait_for_the_end_of_backward", "if self._thread is not None and self._left", "if False and self._left"
        ),
        Mutant("as_many_sequences_for_each", "(done + int(work[k]), rank)", "(done + 1, rank)"),
    ],
    ("fastrnn/distributed/local.py", "distributed"): [
        Mutant("whoever_connects_is_let_in", "if hmac.compare_digest(theirs.encode(), token.encode()):", "if True:"),
    ],
    ("fastrnn/training/examples.py", "fit"): [
        Mutant("weights_are_not_of_mean_one", "weights *= count / total", "weights *= 1"),
        Mutant("the_only_one_of_a_class_may_be_held_out", "counts[classes[order]] > 1", "counts[classes[order]] > 0"),
    ],
    ("fastrnn/sklearn/estimators.py", "sklearn"): [
        Mutant("values_come_back_scaled", "* self.y_scale_ + self.y_mean_", "* self.y_scale_"),
        Mutant("the_optimizer_begins_anew", "optimizer.load_state_dict(self._optimizer_state_)", "pass"),
    ],
    ("fastrnn/sklearn/forecaster.py", "sklearn"): [
        Mutant("a_forecast_forgets_the_last_value", "+ lasts[:, None, :, None]", "+ 0 * lasts[:, None, :, None]"),
        Mutant(
            "the_window_ends_a_step_early",
            "slice(end - self.lookback_, end)",
            "slice(end - self.lookback_ - 1, end - 1)",
        ),
    ],
    ("fastrnn/sklearn/inputs.py", "sklearn"): [
        Mutant("ids_come_in_their_order", "order = np.argsort(first)", "order = np.arange(len(first))"),
    ],
    ("kernels/numba_cells.py", "numba"): [
        Mutant("numba_lstm_swaps_i_and_f", "fma(f, load(c_prev), i * g)", "fma(i, load(c_prev), f * g)"),
        Mutant("numba_gru_carry_ignores_u", "store(carry, dh * u)", "store(carry, dh)"),
    ],
    ("kernels/numba_steps.py", "numba"): [
        Mutant("numba_rows_begin_anew", "low = max(n_low, step.carried)", "low = n_low"),
        Mutant(
            "numba_groups_are_cut_a_row_early", "if rows > SUMMED_ROWS:", "if rows >= SUMMED_ROWS:", "numba_threads"
        ),
    ],
    ("kernels/numba_layout.py", "numba"): [
        Mutant("numba_gru_swaps_gates_of_x", "x_gates=0x102", "x_gates=0x210"),
        Mutant("numba_m_feeds_the_gates_of_h", "else s.m_gates", "else s.h_gates", "numba_written"),
    ],
    ("kernels/numba_forward.py", "numba"): [
        Mutant(
            "numba_threads_do_not_wait_after_a_step",
            "turn = barrier(sync, team, turn, thread, a.watch)\n                if leaves(a.watch, turn):\n"
            "                    return turn\n            if s.phases:",
            "turn += 0\n            if s.phases:",
            "numba_threads",
        ),
        Mutant(
            "numba_threads_do_not_wait_for_phases",
            "turn = barrier(sync, team, turn, thread, a.watch)\n                    if leaves(a.watch, turn):\n"
            "                        return turn\n        if a.hr_panels:",
            "turn += 0\n        if a.hr_panels:",
            "numba_normalized",
        ),
        Mutant(
            "numba_takes_the_first_rows",
            "out = before.h + n * before.h_row, a.taken + (n + (",
            "out = before.h, a.taken + (n + (",
            "numba_extra",
        ),
        Mutant(
            "numba_tiles_are_as_high_as_h_alone_lets_them",
            "vectors = max(vectors, of_x)",
            "vectors = vectors",
            "numba_written",
        ),
        Mutant(
            "numba_states_begin_with_the_first_one",
            "load_part(a.c_0 + ((k * s.N + n) * s.H + u * W), s.H - u * W)",
            "load_part(a.c_0 + (n * s.H + u * W), s.H - u * W)",
            "numba_written",
        ),
    ],
    ("kernels/numba_backward.py", "numba"): [
        Mutant(
            "numba_missing_units_keep_what_memory_held",
            "_clear_missing_units(s, a.starts, tape, n, n_high, W)",
            "pass",
            "numba",
        ),
        Mutant("numba_dx_does_not_add", "if s.add_dx:", "if s.add_dx > 1:"),
        Mutant(
            "numba_gradient_of_h_forgets_what_bypasses",
            "            if bypasses:\n                of_h = of_h + load(a.carry",
            "            if False:\n                of_h = of_h + load(a.carry",
            "numba numba_written",
        ),
        Mutant(
            "numba_parameters_have_the_gradients_of_sums",
            "load(sums + (s.own + m) * W)",
            "load(sums + m * W)",
            "numba_written",
        ),
    ],
    ("kernels/numba_math.py", "numba_activations"): [
        Mutant("numba_sin_takes_two_parts_of_pi", "fma(n, -third, fma(n, -second,", "fma(n, -0.0, fma(n, -second,"),
        Mutant("numba_log1p_forgets_what_rounding_took", "_log_plus(u, lost / u)", "_log_plus(u, 0.0)"),
    ],
    ("kernels/numba_program.py", "numba_activations numba_written"): [
        Mutant("numba_fnma_subtracts_c", "fma(negative(a), b, c)", "negative(fma(a, b, c))"),
        Mutant("numba_min_loses_a_nan", "choose(equal(b, b), minimum(a, b), b)", "minimum(a, b)"),
        Mutant("numba_later_rows_see_one_parameter", "load_part(unit + (i * H + u * W)", "load_part(unit + (u * W)"),
        Mutant(
            "numba_missing_lanes_keep_gradients",
            "store(place, first(load(place), count))",
            "store(place, load(place))",
            reason="their weights are zeros, so only an infinity or a NaN there would be seen",
        ),
        Mutant(
            "numba_lanes_beyond_h_are_summed",
            "store_part(sums + i, found, count)",
            "store(sums + i, found)",
            "numba_normalized",
        ),
        Mutant(
            "numba_means_of_the_first_lane", "total = total + lanes_of[lane]", "total = total + 0.0", "numba_normalized"
        ),
        Mutant(
            "numba_own_gradients_pile_up",
            "(r * s.slots + s.own + m) * W), splat(z, 0.0))",
            "(r * s.slots + s.own) * W), splat(z, 0.0))",
            "numba_normalized",
        ),
        Mutant(
            "numba_extras_of_a_sequence_by_row", "(n if given[2] else row) * columns", "row * columns", "numba_extra"
        ),
        Mutant(
            "numba_gradients_of_extras_of_the_first_units",
            "(row * s.blocks + u) * W",
            "(row * s.blocks) * W",
            "numba_extra",
        ),
        Mutant(
            "numba_takes_programs_it_does_not_know",
            "if field not in _FIELDS and value:",
            "if False:",
            "numba_written",
        ),
    ],
    ("kernels/numba_threads.py", "numba"): [
        Mutant(
            "numba_takes_denormals_as_they_are",
            "word(0x8040)), place)  # FTZ and DAZ",
            "word(0x8000)), place)  # FTZ and DAZ",
            "numba numba_threads",
        ),
    ],
    ("bench/equations.py", "bench"): [
        Mutant(
            "bench_adds_recurrent_biases_twice",
            "early = of_m if self.alone else (*self.added, *of_m)",
            "early = (*self.added, *of_m)",
        ),
    ],
    ("bench/measure.py", "bench"): [
        Mutant("bench_times_wrong_numbers", "if prepared.outcome:", "if prepared.outcome is None:"),
    ],
    ("bench/results.py", "bench"): [
        Mutant(
            "bench_takes_yardsticks_for_peers",
            "if name not in (*OWN, REFERENCE)]",
            "if name not in (*OURS, REFERENCE)]",
        ),
    ],
}

MUTANTS = [
    mutant._replace(path=path, suites=mutant.suites or suites)
    for (path, suites), mutants in GROUPS.items()
    for mutant in mutants
]
