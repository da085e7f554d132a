"""LSTM, GRU and RNN with any activations, clipping, coupled gates and peepholes: all that ONNX and Keras have.

Each function makes a cell of its options, the same one for the same options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastrnn.cells.language import WrittenCell, cell
from fastrnn.cells.library.activations import Activation, activation
from fastrnn.cells.operations import clip as clipped
from fastrnn.checks import check_choice, check_flag, check_positive_number

__all__ = ["gru_with", "lstm_with", "rnn_with"]

_MADE: dict[tuple[Any, ...], WrittenCell] = {}


def _once(factory: Callable[..., WrittenCell], options: dict[str, Any], make: Callable[[], WrittenCell]) -> WrittenCell:
    """The cell that a factory makes of its options; made when it is first asked for."""
    key = (factory.__name__, *options.values())
    if key not in _MADE:
        told = {name: value for name, value in options.items() if value is not None and value is not False}
        name = f"{factory.__name__}({', '.join(f'{name}={_text(value)}' for name, value in told.items())})"
        _MADE.setdefault(key, replace(make(), name=name, made_by=(factory, options)))
    return _MADE[key]


def _text(value: Any) -> str:
    return str(value) if isinstance(value, Activation) else repr(value)


def _limit(clip: Any) -> float | None:
    return None if clip is None else check_positive_number("clip", clip)


def _of_clipped(function: Activation, clip: float | None) -> Callable[[Any], Any]:
    """An activation of its input within -clip to clip."""
    return lambda x: function(x if clip is None else clipped(x, -clip, clip))


def lstm_with(
    gate: Any = "sigmoid",
    candidate: Any = "tanh",
    output: Any = "tanh",
    *,
    clip: float | None = None,
    coupled: bool = False,
    peepholes: bool = False,
) -> WrittenCell:
    """Make an LSTM with other activations than sigmoid and tanh::

        i = gate(a.i + p_i * c_{t-1})   f = gate(a.f + p_f * c_{t-1})   g = candidate(a.g)
        c_t = f * c_{t-1} + i * g
        o = gate(a.o + p_o * c_t)
        h_t = o * output(c_t)

    Parameters
    ----------
    gate, candidate, output
        Activations: names of `fastrnn.cells.library.activations.ACTIVATIONS`, or tuples of a name and its numbers.
    clip
        The sums of all gates, peepholes among them, are clipped to -clip to clip first; None does not. What goes into
        `output` is not, as in ONNX Runtime.
    coupled
        Whether f is 1 - i. Then there is no gate f.
    peepholes
        Whether the gates see the memory, by the parameters p_i, p_f and p_o; without them they are zero.

    Returns
    -------
    WrittenCell
        For `fastrnn.Recurrent`; of gates i, f, g, o in this order.

    Raises
    ------
    TypeError, ValueError
        If an activation is not known, or mixes units, or clip is not positive.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.Recurrent(fastrnn.cells.lstm_with("hard_sigmoid", "softsign"), 8, 32)
    Recurrent(lstm_with(gate='hard_sigmoid', candidate='softsign', output='tanh'), 8, 32)
    """
    named = {"gate": gate, "candidate": candidate, "output": output}
    functions = {name: activation(name, given) for name, given in named.items()}
    clip, coupled = _limit(clip), check_flag("coupled", coupled)
    of_gate, of_candidate = (_of_clipped(functions[name], clip) for name in ("gate", "candidate"))
    of_output = functions["output"]

    def lstm(a: Any, prev: Any) -> Any:
        i, g, o = of_gate(a.i), of_candidate(a.g), of_gate(a.o)
        f = 1 - i if coupled else of_gate(a.f)
        c = f * prev.c + i * g
        return o * of_output(c), c

    def peephole_lstm(a: Any, prev: Any, p: Any) -> Any:
        i, g = of_gate(a.i + p.p_i * prev.c), of_candidate(a.g)
        f = 1 - i if coupled else of_gate(a.f + p.p_f * prev.c)
        c = f * prev.c + i * g
        o = of_gate(a.o + p.p_o * c)
        return o * of_output(c), c

    def make() -> WrittenCell:
        gates, parameters = ("i g o", "p_i p_o") if coupled else ("i f g o", "p_i p_f p_o")
        defined = cell(gates=gates, states="h c", parameters=parameters if peepholes else ())
        return defined(peephole_lstm if peepholes else lstm)

    options = {**functions, "clip": clip, "coupled": coupled, "peepholes": check_flag("peepholes", peepholes)}
    return _once(lstm_with, options, make)


def gru_with(
    gate: Any = "sigmoid", candidate: Any = "tanh", *, reset: str = "after", clip: float | None = None
) -> WrittenCell:
    """Make a GRU with other activations than sigmoid and tanh::

        r = gate(a.r)   z = gate(a.z)
        n = candidate(a.n.x + r * a.n.h)              reset "after" the recurrent product
        n = candidate(a.n of r * h_{t-1} for h_{t-1})  reset "before" it
        h_t = n + z * (h_{t-1} - n)

    Parameters
    ----------
    gate, candidate
        Activations: names of `fastrnn.cells.library.activations.ACTIVATIONS`, or tuples of a name and its numbers.
    reset
        "after" the recurrent product, as torch.nn's GRU, or "before" it, as in the paper (Cho et al., 2014).
    clip
        What goes into every activation is clipped to -clip to clip first; None does not.

    Returns
    -------
    WrittenCell
        For `fastrnn.Recurrent`; of gates r, z, n in this order.

    Raises
    ------
    TypeError, ValueError
        If an activation is not known, or mixes units, or another option is wrong.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.Recurrent(fastrnn.cells.gru_with(candidate=("leaky_relu", 0.2)), 8, 32).cell.gates
    ('r', 'z', 'n')
    """
    functions = {name: activation(name, given) for name, given in (("gate", gate), ("candidate", candidate))}
    clip, reset = _limit(clip), check_choice("reset", reset, ("after", "before"))
    of_gate, of_candidate = (_of_clipped(function, clip) for function in functions.values())

    def gru(a: Any, prev: Any) -> Any:
        r, z = of_gate(a.r), of_gate(a.z)
        n = of_candidate(a.n.x + r * a.n.h if reset == "after" else a.n(r * prev.h))
        return n + z * (prev.h - n)

    return _once(
        gru_with,
        {**functions, "reset": reset, "clip": clip},
        lambda: cell(gates="r z n", apart="n" if reset == "after" else ())(gru),
    )


def rnn_with(function: Any = "tanh", *, clip: float | None = None) -> WrittenCell:
    """Make a plain RNN with another activation than tanh or relu: h_t = function(a.h).

    Parameters
    ----------
    function
        An activation: a name of `fastrnn.cells.library.activations.ACTIVATIONS`, or a tuple of it and its numbers.
    clip
        What goes into it is clipped to -clip to clip first; None does not.

    Returns
    -------
    WrittenCell
        For `fastrnn.Recurrent`; of one gate, h.

    Raises
    ------
    TypeError, ValueError
        If the activation is not known, or mixes units, or clip is not positive.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.Recurrent(fastrnn.cells.rnn_with("softsign"), 8, 32)
    Recurrent(rnn_with(function='softsign'), 8, 32)
    """
    of_sum = activation("function", function)
    clip = _limit(clip)
    of_clipped = _of_clipped(of_sum, clip)

    def rnn(a: Any, prev: Any) -> Any:
        return of_clipped(a.h)

    return _once(rnn_with, {"function": of_sum, "clip": clip}, lambda: cell(gates="h")(rnn))
