"""Models made of layers, and the many-to-one use of a recurrent module.

A layer is what has ``forward(x) -> (y, tape)``, ``backward(tape, dy) -> (dx, gradients by parameter name)``, a call for
inference, `parameters`, `state_dict` and `load_state_dict`; one whose `takes_lengths` is true takes `lengths` as well,
and one whose `takes_masks` is true takes `mask` and `resets` besides. Of one whose `leaves_dx` is true, backward takes
``of_x=False``, where nobody wants dx, and may return None in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from fastrnn import GRU, LSTM, RNN, modules, ops
from fastrnn.checks import check_flag, check_instance, check_mapping, make_generator, shown, take_array
from fastrnn.modules import Tape
from fastrnn.parameters import Array, NamedArrays, fill
from fastrnn.training.architecture import written_as
from fastrnn.training.names import join_names

__all__ = ["Composed", "Last", "Recurrent", "Sequential", "clear", "draws", "given_steps", "padding_of"]

Recurrent: TypeAlias = RNN | LSTM | GRU | modules.Recurrent


class Composed:
    """What has the parameters of something else."""

    _on_gradients: Callable[[str, Mapping[str, Array]], None] | None = None  # told of a layer's, before those below it

    @property
    def parameters(self) -> dict[str, Array]:
        """The live parameter arrays by name; write into them (``p -= ...``) to train."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of every parameter by name."""
        return {name: p.copy() for name, p in self.parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy the values of `state_dict` into the parameters, all or, after an error, none.

        Raises
        ------
        KeyError
            If a name is missing or unexpected.
        ValueError
            If a shape differs.
        TypeError
            If a value is not of real numbers.
        """
        fill(self.parameters, state_dict)

    def __repr__(self) -> str:
        return written_as(self)


class _Stateful(Composed):
    """What has states that a sequence begins with and ends in.

    The three methods take them all by name; the name "" is of the only one. `which` are lengths, mask and resets.
    """

    takes_lengths = takes_masks = leaves_dx = True

    def _state_names(self) -> list[str]:
        """The names of its states."""
        raise NotImplementedError

    def _infer_from(self, x: Any, which: Mapping[str, Any], states: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return y and the final states."""
        raise NotImplementedError

    def _forward_from(
        self, x: Any, which: Mapping[str, Any], states: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any], Any]:
        """Return y, the final states and the tape."""
        raise NotImplementedError

    def _backward_from(
        self, tape: Any, dy: Any, dstates: Mapping[str, Any], *, of_x: bool = True
    ) -> tuple[Array | None, dict[str, Any], dict[str, Array]]:
        """Return dx, the gradients of the initial states, and those of the parameters."""
        raise NotImplementedError


class _EveryStep(_Stateful):
    """A recurrent module as a layer: y of every step."""

    def __init__(self, rnn: Recurrent) -> None:
        self.rnn = check_instance(
            "rnn", rnn, (RNN, LSTM, GRU, modules.Recurrent), "fastrnn.RNN, LSTM or GRU, or a fastrnn.Recurrent"
        )

    @property
    def parameters(self) -> dict[str, Array]:
        return self.rnn.parameters

    def freeze(self) -> None:
        """As of the module."""
        self.rnn.freeze()

    @property
    def batch_first(self) -> bool:
        return self.rnn.batch_first

    @property
    def _draws(self) -> bool:
        """Whether there is dropout, or noise in the cell."""
        return self.rnn._dropout is not None or any(self.rnn._rates)

    def seed_dropout(self, seed: Any) -> None:
        """Have dropout within draw from `seed` on, anything `numpy.random.default_rng` takes."""
        self.rnn.seed_dropout(seed)

    def _state_names(self) -> list[str]:
        return [""]

    def _infer_from(self, x: Any, which: Mapping[str, Any], states: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        y, state_n = self.rnn(x, states.get(""), **which)
        return y, {"": state_n}

    def _forward_from(
        self, x: Any, which: Mapping[str, Any], states: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any], Any]:
        y, state_n, tape = self.rnn.forward(x, states.get(""), **which)
        return y, {"": state_n}, tape

    def _backward_from(
        self, tape: Any, dy: Any, dstates: Mapping[str, Any], *, of_x: bool = True
    ) -> tuple[Array | None, dict[str, Any], dict[str, Array]]:
        less = {} if of_x else {"of_x": False}  # somebody's subclass may not know of it
        dx, dstate_0, grads = self.rnn.backward(tape, dy, dstates.get(""), **less)
        return dx, {"": dstate_0}, grads


class LastTape(NamedTuple):
    """What `Last.forward` keeps for its `backward`; it serves once."""

    rnn: Tape
    shape: tuple[int, ...]  # of h


class Last(_EveryStep):
    """Many to one: the h in which a recurrent module's last layer ends.

    With lengths or a mask it is the h after each sequence's last real step, so that nothing of the padding reaches it;
    of a sequence of no steps it is zero. The reverse direction of a bidirectional module ends at the first step.

    Parameters
    ----------
    rnn
        A `fastrnn.RNN`, `LSTM`, `GRU` or `Recurrent`; the names of the parameters are its own.

    Raises
    ------
    TypeError
        If it is something else.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> last = Last(fastrnn.GRU(4, 8, bidirectional=True, seed=0))
    >>> h, tape = last.forward(np.ones((5, 3, 4), "float32"), lengths=[5, 2, 4])
    >>> dx, grads = last.backward(tape, np.ones_like(h))
    >>> h.shape, dx.shape
    ((3, 16), (5, 3, 4))
    """

    def __call__(self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None) -> Array:
        """Return h (N, D*P), or (D*P,) for a single sequence; all arguments are as for the module."""
        h: Array = self._infer_from(x, given_steps(lengths, mask, resets), {})[0]
        return h

    def forward(self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None) -> tuple[Array, LastTape]:
        """Return what calling returns, and the tape, which serves once."""
        h, _, tape = self._forward_from(x, given_steps(lengths, mask, resets), {})
        return h, tape

    def backward(self, tape: LastTape, dh: Any, *, of_x: bool = True) -> tuple[Array | None, dict[str, Array]]:
        """Return dx, None for tokens or unless `of_x`, and the gradients by parameter name, for dh of h's shape."""
        dx, _, grads = self._backward_from(tape, dh, {}, of_x=of_x)
        return dx, grads

    def _infer_from(self, x: Any, which: Mapping[str, Any], states: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return h and the final state."""
        state_n = self.rnn(x, states.get(""), **which)[1]
        return self._h(state_n), {"": state_n}

    def _forward_from(
        self, x: Any, which: Mapping[str, Any], states: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any], Any]:
        """Return h, the final state and the tape."""
        _, state_n, tape = self.rnn.forward(x, states.get(""), **which)
        h = self._h(state_n)
        return h, {"": state_n}, LastTape(tape, h.shape)

    def _backward_from(
        self, tape: Any, dy: Any, dstates: Mapping[str, Any], *, of_x: bool = True
    ) -> tuple[Array | None, dict[str, Any], dict[str, Array]]:
        """Return dx and the other gradients, for dh of h's shape and that of the final state, of which h is a part."""
        check_instance("tape", tape, LastTape, "the tape that forward returned")
        rnn, (rnn_tape, shape) = self.rnn, tape
        dh = ops.as_real("dh", dy, rnn.dtype, shape, "the shape of h")
        D, P = rnn.directions, shape[-1] // rnn.directions
        dh_n = np.zeros((rnn.num_layers * D, *shape[:-1], P), rnn.dtype)
        dh_n[-D:] = np.moveaxis(dh.reshape(*shape[:-1], D, P), -2, 0)
        others: tuple[Any, ...] = (None,) * (len(rnn._cell.states) - 1)
        given = dstates.get("")
        if given is not None:
            of_h, *others_given = given if isinstance(given, (tuple, list)) else (given,)
            if len(others_given) != len(others):
                raise ValueError(f"dstate has {1 + len(others_given)} arrays; expected {1 + len(others)}")
            if of_h is not None:
                dh_n += ops.as_real("dstate of h", of_h, rnn.dtype, dh_n.shape, "the shape of the final h")
            others = tuple(others_given)
        dx, dstate_0, grads = rnn.backward(rnn_tape, None, (dh_n, *others) if others else dh_n, of_x=of_x)
        return dx, {"": dstate_0}, grads

    def _h(self, state_n: Any) -> Array:
        """The last layer's h of a final state, (L*D, N, P) of it, with its directions side by side."""
        h_n = state_n[0] if isinstance(state_n, tuple) else state_n
        D, P = self.rnn.directions, h_n.shape[-1]
        h: Array = np.moveaxis(h_n[-D:], 0, -2).reshape(*h_n.shape[1:-1], D * P)
        return h


def _by_name(first: Any, more: tuple[Any, ...]) -> Mapping[str, Any]:
    """The layers by name of what `Sequential` is given."""
    if isinstance(first, Mapping):
        if more:
            raise TypeError(f"layers is a mapping and {len(more)} more; expected one mapping, or the layers alone")
        return first
    if isinstance(first, (list, tuple)) and not more:
        return {str(k): layer for k, layer in enumerate(first)}
    if not hasattr(first, "forward"):
        wanted = (
            "a mapping of names to layers, or layers: Sequential({'rnn': rnn, 'head': head}), Sequential(rnn, head)"
        )
        raise TypeError(f"layers is {shown(first)}; expected {wanted}")
    return {str(k): layer for k, layer in enumerate((first, *more))}


class Sequential(_Stateful):
    """Layers one after the other.

    Parameters
    ----------
    *layers
        A mapping of names to layers, or the layers themselves, or a list of them, whose names then are "0", "1" and so
        on, as in torch.nn.Sequential. A layer is a `fastrnn.RNN`, `LSTM` or `GRU` (whose y goes on), `Last`,
        `Embedding`, `Linear`, `Dropout`, another `Sequential`, or anything of your own that is a layer as
        `fastrnn.training.composition` says. A parameter's name is the layer's and its own, ``rnn.weight_ih_l0``, as in
        a torch module with such attributes.

    Raises
    ------
    TypeError
        If a layer has no forward and backward.
    ValueError
        If there is none, a name is empty or has a dot, or a layer with parameters comes twice.

    Examples
    --------
    A sentence of words as one number; sentences of two lengths, padded with 0.

    >>> import numpy as np, fastrnn
    >>> from fastrnn.training import Adam, Embedding, Linear, bce_with_logits
    >>> model = Sequential(
    ...     {
    ...         "embedding": Embedding(20, 8, padding_idx=0, seed=0),
    ...         "rnn": Last(fastrnn.LSTM(8, 16, seed=1)),
    ...         "head": Linear(16, 1, seed=2),
    ...     }
    ... )
    >>> words, lengths = np.array([[3, 5], [4, 7], [9, 0]]), [3, 2]  # (T, N)
    >>> optimizer = Adam(model.parameters, learning_rate=0.01)
    >>> for _ in range(30):
    ...     logits, tape = model.forward(words, lengths)
    ...     loss, dlogits = bce_with_logits(logits, np.array([[1], [0]], "float32"))
    ...     _, grads = model.backward(tape, dlogits)
    ...     optimizer.step(grads)
    >>> loss < 0.1, (model(words, lengths) > 0).ravel()
    (True, array([ True, False]))
    """

    def __init__(self, layers: Any, *more: Any) -> None:
        layers = _by_name(layers, more)
        if not layers:
            raise ValueError("layers is empty; expected at least one")
        for name, layer in layers.items():
            if not isinstance(name, str) or not name or "." in name:
                raise ValueError(f"layers has the name {shown(name)}; expected one without a dot, not empty")
            if isinstance(layer, type) or not (hasattr(layer, "forward") and hasattr(layer, "backward")):
                raise TypeError(f"layers[{shown(name)}] is {shown(layer)}; expected a layer")
        with_parameters = [id(layer) for layer in layers.values() if layer.parameters]
        if len(set(with_parameters)) < len(with_parameters):
            raise ValueError("layers has one layer twice; expected each once: its two gradients would not be added up")
        self.layers = dict(layers)
        self._steps: dict[str, Any] = {
            name: _EveryStep(layer) if isinstance(layer, Recurrent) else layer for name, layer in layers.items()
        }
        taking = [name for name, layer in self._steps.items() if _takes(layer, "lengths")]
        self.takes_lengths = bool(taking)
        self.takes_masks = any(_takes(layer, "mask") for layer in self._steps.values())
        self.batch_first = bool(taking) and getattr(self._steps[taking[0]], "batch_first", False)
        # What these make of the padding goes to another layer that takes lengths, and its gradient, zero, comes back.
        names = list(self._steps)
        self._padded = set(names[: names.index(taking[-1])] if taking else ()).difference(taking)

    @property
    def parameters(self) -> dict[str, Array]:
        """The live parameter arrays by name; write into them (``p -= ...``) to train."""
        return NamedArrays(join_names({name: layer.parameters for name, layer in self.layers.items()}))

    def __call__(self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None, state: Any = None) -> Any:
        """Return y, without dropout; with a state also the final one.

        Parameters
        ----------
        x
            What the first layer takes.
        lengths
            (N,) ints, how many steps each sequence really has; they go to every layer that takes them. The padding may
            hold anything: layers before a recurrent one find zeros there. What comes after the recurrent layers knows
            no lengths: of y beyond them take nothing, as a loss with `ignore_index` does.
        mask
            (T, N) bools, with the axes of x, or (T,) of a single sequence: a step that is False is left out, as are
            those beyond the lengths, and the state stays as it is.
        resets
            The same, of the steps before which the state begins anew, from zero. Layers that are not recurrent do not
            know of them.
        state
            None for zeros, or a mapping of the names of recurrent layers, "lower.rnn" of one in a Sequential within, to
            the states that these begin with, as the modules take them; those that are left out begin with zeros. Then
            the result is a pair, y and the final states of all of them, which is what the next call takes: begin with
            ``state={}``.

        Raises
        ------
        ValueError
            If one of these is given and no layer takes it, or a layer that takes lengths does not take the others.
        """
        y, state_n = self._infer_from(x, self._given(lengths, mask, resets), self._take_states("state", state))
        return y if state is None else (y, state_n)

    def forward(self, x: Any, lengths: Any = None, *, mask: Any = None, resets: Any = None, state: Any = None) -> Any:
        """Return what a call does, but with dropout, and the tape as well: those of the layers."""
        y, state_n, tape = self._forward_from(x, self._given(lengths, mask, resets), self._take_states("state", state))
        return (y, tape) if state is None else (y, state_n, tape)

    def backward(self, tape: list[tuple[Any, Array | None]], dy: Any, dstate: Any = None, *, of_x: bool = True) -> Any:
        """Return dx, None for tokens, and the gradients by parameter name, for the gradient of y.

        The tape serves once if a layer's does, as those of recurrent modules.

        Parameters
        ----------
        tape
            From `forward`.
        dy
            Of y's shape.
        dstate
            A mapping of the names of recurrent layers to the gradients of their final states, as the modules take
            them; then the result has the gradients of the initial states, by the same names, between the others.
        of_x
            Whether dx is wanted. If not, it is None, and no layer does anything for it alone.

        Raises
        ------
        TypeError, ValueError
            If the tape or a gradient is not one of this model's.
        """
        dstates = self._take_states("dstate", dstate)
        dx, dstate_0, grads = self._backward_from(tape, dy, dstates, of_x=check_flag("of_x", of_x))
        return (dx, grads) if dstate is None else (dx, dstate_0, grads)

    def freeze(self) -> Sequential:
        """Make the parameters of all layers read-only, for good, and return the model; see `fastrnn.LSTM.freeze`."""
        for layer in self.layers.values():
            if hasattr(layer, "freeze"):  # one of somebody else's may lack it
                layer.freeze()
        return self

    @property
    def _draws(self) -> bool:
        """Whether `seed_dropout` makes a difference to any layer."""
        return any(map(draws, self._steps.values()))

    def seed_dropout(self, seed: Any) -> None:
        """Have dropout in every layer draw from `seed` on, anything `numpy.random.default_rng` takes."""
        rng = make_generator(seed)
        for layer in self._steps.values():
            if draws(layer):  # spawning takes as long as a small layer
                layer.seed_dropout(rng.spawn(1)[0])

    def _state_names(self) -> list[str]:
        """Return the names of recurrent layers, as `state` has them."""
        stateful = {name: layer for name, layer in self._steps.items() if _is_stateful(layer)}
        return [_joined(name, each) for name, layer in stateful.items() for each in layer._state_names()]

    def _infer_from(self, x: Any, which: Mapping[str, Any], states: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return y and the final states, by name."""
        states_n: dict[str, Any] = {}
        for name, layer in self._steps.items():
            x = clear(x, self._padding(name, x, which))
            if _is_stateful(layer):
                x, ended = layer._infer_from(x, _taken(layer, which), _within(name, states))
                states_n |= {_joined(name, each): state for each, state in ended.items()}
            else:
                x = layer(x, **_taken(layer, which))
        return x, states_n

    def _forward_from(
        self, x: Any, which: Mapping[str, Any], states: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any], list[tuple[Any, Array | None]]]:
        """Return y, the final states, by name, and the tape."""
        states_n: dict[str, Any] = {}
        tapes = []
        for name, layer in self._steps.items():
            padding = self._padding(name, x, which)
            x = clear(x, padding)
            if _is_stateful(layer):
                x, ended, tape = layer._forward_from(x, _taken(layer, which), _within(name, states))
                states_n |= {_joined(name, each): state for each, state in ended.items()}
            else:
                x, tape = layer.forward(x, **_taken(layer, which))
            tapes.append((tape, padding))
        return x, states_n, tapes

    def _backward_from(
        self, tape: Any, dy: Any, dstates: Mapping[str, Any], *, of_x: bool = True
    ) -> tuple[Array | None, dict[str, Any], dict[str, Array]]:
        """Return dx, the gradients of the initial states, and those of the parameters, each by name."""
        if not isinstance(tape, list) or len(tape) != len(self._steps):
            raise TypeError(f"tape is not of this model; expected the list of {len(self._steps)} that forward returned")
        grads: dict[str, dict[str, Array]] = {}
        dstates_0: dict[str, Any] = {}
        # Below the lowest layer that has parameters nobody asks for anything.
        lowest = next((name for name, layer in self._steps.items() if layer.parameters), "")
        ended = False
        for (name, layer), (its_tape, padding) in zip(reversed(self._steps.items()), reversed(tape), strict=True):
            if ended:
                dy, grads[name] = None, {}
                continue
            ended = name == lowest and not of_x
            less = {"of_x": False} if ended and getattr(layer, "leaves_dx", False) else {}
            if _is_stateful(layer):
                dy, dstarted, grads[name] = layer._backward_from(its_tape, dy, _within(name, dstates), **less)
                dstates_0 |= {_joined(name, each): dstate for each, dstate in dstarted.items()}
            else:
                dy, grads[name] = layer.backward(its_tape, dy, **less)
            if self._on_gradients is not None and grads[name]:
                self._on_gradients(name, grads[name])
            if dy is not None:
                dy = clear(dy, padding)  # zeros were put there, whatever x was
        names = [name for name in self._state_names() if name in dstates_0]
        dx = dy if of_x else None
        return dx, {name: dstates_0[name] for name in names}, join_names({name: grads[name] for name in self.layers})

    def _take_states(self, argument: str, states: Any) -> Mapping[str, Any]:
        """Validate the names of states that a caller gives."""
        if states is None:
            return {}
        names = self._state_names()
        for name in check_mapping(argument, states, "names of recurrent layers to states"):
            if name not in names:
                wanted = f"some of {', '.join(names)}" if names else "none: no layer is recurrent"
                raise ValueError(f"{argument} has {shown(name)}; expected {wanted}")
        return dict(states)

    def _given(self, lengths: Any, mask: Any, resets: Any) -> dict[str, Any]:
        """What a call is given of these, by name; ValueError if a layer does not take what it should."""
        given = given_steps(lengths, mask, resets)
        for name in given:
            if not _takes(self, name):
                raise ValueError(f"{name} is given, but none of the layers {', '.join(self.layers)} takes any")
            if others := [at for at, each in self._steps.items() if _takes(each, "lengths") and not _takes(each, name)]:
                raise ValueError(
                    f"{name} is given, but the layer {others[0]} takes lengths alone; expected one whose takes_masks "
                    "is true"
                )
        return given

    def _padding(self, name: str, x: Any, given: Mapping[str, Any]) -> Array | None:
        """Which steps of a layer's x hold what it must not see."""
        if name not in self._padded:
            return None
        return padding_of(x, given.get("lengths"), given.get("mask"), self.batch_first)


def given_steps(lengths: Any, mask: Any, resets: Any) -> dict[str, Any]:
    """What of these a call is given, by name, to be handed on."""
    given = {"lengths": lengths, "mask": mask, "resets": resets}
    return {name: value for name, value in given.items() if value is not None}


def draws(layer: Any) -> bool:
    """Whether a layer draws anything in training that `seed_dropout` seeds."""
    return hasattr(layer, "seed_dropout") and bool(getattr(layer, "_draws", True))


def _is_stateful(layer: Any) -> TypeGuard[_Stateful]:
    """Whether a layer takes states; a subclass may have a `forward` of its own, which is then what is called."""
    return type(layer) in (_EveryStep, Last, Sequential)


def _joined(name: str, inner: str) -> str:
    """The name of a state of a layer, which has none of its own if it is the only one."""
    return f"{name}.{inner}" if inner else name


def _within(name: str, states: Mapping[str, Any]) -> dict[str, Any]:
    """Of states by name those of one layer, by the names that these have in it."""
    return {key[len(name) + 1 :]: state for key, state in states.items() if key == name or key.startswith(f"{name}.")}


def padding_of(x: Any, lengths: Any, mask: Any, batch_first: bool) -> Array | None:
    """Return which steps of x are beyond the lengths (N,) or masked, with its axes; None where none is.

    None also where x and the others do not fit together: the layer that takes all of them says what is wrong.
    """
    if lengths is None and mask is None:
        return None
    x = take_array("x", x)
    padding = None
    if mask is not None:
        mask = take_array("mask", mask)
        if mask.dtype != bool or mask.shape != x.shape[: mask.ndim] or mask.ndim not in (1, 2):
            return None
        padding = ~mask
    if lengths is not None:
        lengths, (time, batch) = take_array("lengths", lengths), (1, 0) if batch_first else (0, 1)
        if x.ndim < 2 or lengths.shape != (x.shape[batch],) or lengths.dtype.kind not in "iu":
            return None
        beyond = np.arange(x.shape[time])[:, None] >= lengths
        beyond = beyond.T if batch_first else beyond
        if padding is not None and padding.shape != beyond.shape:
            return None
        padding = beyond if padding is None else beyond | padding
    return padding if padding is not None and padding.any() else None


def clear(x: Any, padding: Array | None) -> Any:
    """Return x with zeros at the padding: 0 times NaN is NaN, so zero gradients alone do not help.

    Without padding it is x itself, and so it is where it is not of numbers: the layer says what is wrong.
    """
    if padding is None:
        return x
    x = take_array("x", x)
    if x.dtype.kind not in "iuf":
        return x
    x = x.copy()
    x[padding] = 0
    return x


def _takes(layer: Any, name: str) -> bool:
    """Whether a layer takes an argument, "lengths", "mask" or "resets"."""
    return bool(getattr(layer, "takes_lengths" if name == "lengths" else "takes_masks", False))


def _taken(layer: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a layer takes of what a call is given."""
    return {name: value for name, value in given.items() if _takes(layer, name)}
