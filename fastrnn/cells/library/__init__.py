"""Cells from the literature, written in the language: equations and papers stand in each."""

from fastrnn.cells.library.continuous import cfc, lem, ltc
from fastrnn.cells.library.gru import atr, brc, hard_gru, li_gru, mgu, nbrc, reset_before_gru, star, ugrnn
from fastrnn.cells.library.lstm import coupled_lstm, hard_lstm, janet, peephole_lstm, ran, slstm
from fastrnn.cells.library.normalized import gatewise_layer_norm_lstm, layer_norm_gru, layer_norm_lstm, rms_norm_lstm
from fastrnn.cells.library.rnn import antisymmetric_rnn, fast_grnn, fast_rnn, ind_rnn, ind_rnn_tanh, leaky_rnn
from fastrnn.cells.library.scan import gilr, min_gru, min_lstm, qrnn, rg_lru, sru

LIBRARY = {
    cell.name: cell
    for cell in (
        *(peephole_lstm, coupled_lstm, hard_lstm, janet, ran, slstm),
        *(reset_before_gru, mgu, hard_gru, li_gru, ugrnn, brc, nbrc, star, atr),
        *(min_gru, min_lstm, sru, qrnn, gilr, rg_lru),
        *(ind_rnn, ind_rnn_tanh, leaky_rnn, fast_rnn, fast_grnn, antisymmetric_rnn),
        *(layer_norm_lstm, gatewise_layer_norm_lstm, layer_norm_gru, rms_norm_lstm),
        *(cfc, lem, ltc),
    )
}

__all__ = ["LIBRARY", *LIBRARY]  # noqa: PLE0604
