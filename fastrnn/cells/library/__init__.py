"""Cells from the literature, written in the language, with their papers; and variants of LSTM, GRU and RNN."""

from fastrnn.cells.library.continuous import cfc, cfc_dt, co_rnn, gru_d, lem, ltc, ltc_dt
from fastrnn.cells.library.gru import atr, brc, hard_gru, li_gru, mgu, nbrc, reset_before_gru, star, ugrnn
from fastrnn.cells.library.lstm import coupled_lstm, hard_lstm, janet, peephole_lstm, ran, slstm
from fastrnn.cells.library.noise import gal_gru, gal_lstm, semeniuta_gru, semeniuta_lstm, zoneout_gru, zoneout_lstm
from fastrnn.cells.library.normalized import (
    gatewise_layer_norm_lstm,
    layer_norm_gru,
    layer_norm_lstm,
    layer_norm_reset_before_gru,
    rms_norm_lstm,
)
from fastrnn.cells.library.rnn import antisymmetric_rnn, fast_grnn, fast_rnn, ind_rnn, ind_rnn_tanh, leaky_rnn
from fastrnn.cells.library.scan import gilr, min_gru, min_lstm, qrnn, rg_lru, sru
from fastrnn.cells.library.variants import gru_with, lstm_with, rnn_with

LIBRARY = {
    cell.name: cell
    for cell in (
        *(peephole_lstm, coupled_lstm, hard_lstm, janet, ran, slstm),
        *(reset_before_gru, mgu, hard_gru, li_gru, ugrnn, brc, nbrc, star, atr),
        *(min_gru, min_lstm, sru, qrnn, gilr, rg_lru),
        *(ind_rnn, ind_rnn_tanh, leaky_rnn, fast_rnn, fast_grnn, antisymmetric_rnn),
        *(layer_norm_lstm, gatewise_layer_norm_lstm, layer_norm_gru, layer_norm_reset_before_gru, rms_norm_lstm),
        *(cfc, co_rnn, lem, ltc),
    )
}

# Those that are given values beside x, or have dropout or zoneout of their own.
BESIDE = {
    cell.name: cell
    for cell in (
        *(cfc_dt, ltc_dt, gru_d),
        *(gal_lstm, gal_gru, semeniuta_lstm, semeniuta_gru, zoneout_lstm, zoneout_gru),
    )
}

__all__ = ["BESIDE", "LIBRARY", "gru_with", "lstm_with", "rnn_with", *LIBRARY, *BESIDE]  # noqa: PLE0604
