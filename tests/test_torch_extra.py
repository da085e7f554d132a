"""Cells that are given values beside x, and noise: against a loop in torch, and in torch's modules."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from test_extra import CELLS, RUNS, H, I, N, T, cells, draw, everything, extra_of, extras, make, run
from tolerances import assert_close

import fastrnn
from fastrnn.cells import BESIDE

torch = pytest.importorskip("torch", reason="torch is not installed")

import fastrnn.torch as ours  # noqa: E402


def torch_step(name: str, sums: Any, hh: Any, bias: Any, prev: Any, masks: Any, dt: Any, unit: Any) -> Any:
    """A step as its paper writes it, on tensors."""
    s, tanh = torch.sigmoid, torch.tanh
    h = prev[0]
    if name in ("gal_lstm", "gal_gru"):
        h = h * masks["drop"]
    if name == "second_product_of_h":
        (x_f, x_g), (r_f, r_g, r_k), (b_f, b_g, b_k) = sums.chunk(2, 1), hh.chunk(3), bias.chunk(3)
        c = s(x_f + (h * masks["drop"]) @ r_f.T + b_f) * prev[1] + tanh(x_g + (h @ r_g.T + b_g) * dt)
        return tanh(c) * s(h @ r_k.T + b_k), c
    a = (sums + h @ hh.T + bias).chunk(len(BESIDE[name].gates), 1)
    if name == "cfc_dt":
        f, g = tanh(a[0]), tanh(a[1])
        t = s(a[2] * dt + a[3])
        return ((1 - t) * f + t * g,)
    if name == "ltc_dt":
        tau, target = unit
        return ((h + dt * s(a[0]) * target) / (1 + dt * (torch.nn.functional.softplus(tau) + s(a[0]))),)
    if name == "gru_d":
        rate, delay = unit
        h = h * torch.exp(-torch.relu(rate * dt + delay))
        (x_r, x_z, x_n), (r_r, r_z, r_n), (b_r, b_z, b_n) = (v.chunk(3, d) for v, d in ((sums, 1), (hh, 0), (bias, 0)))
        r, z = s(x_r + h @ r_r.T + b_r), s(x_z + h @ r_z.T + b_z)
        n = tanh(x_n + (r * h) @ r_n.T + b_n)
        return ((1 - z) * h + z * n,)
    if name.endswith("_lstm"):
        i, f, g, o = s(a[0]), s(a[1]), tanh(a[2]), s(a[3])
        g = g * masks["drop"] if name == "semeniuta_lstm" else g
        c = f * prev[1] + i * g
        new = o * tanh(c), c
        if name == "zoneout_lstm":
            new = tuple(
                [z * old + (1 - z) * n for z, n, old in zip((masks["zone_h"], masks["zone_c"]), new, prev, strict=True)]
            )
        return new
    x, r_h = sums.chunk(3, 1), (h @ hh.T + bias).chunk(3, 1)
    h = prev[0]
    r, z = s(x[0] + r_h[0]), s(x[1] + r_h[1])
    n = tanh(x[2] + r * r_h[2])
    n = n * masks["drop"] if name == "semeniuta_gru" else n
    new = n + z * (h - n)
    return (masks["zone"] * h + (1 - masks["zone"]) * new,) if name == "zoneout_gru" else (new,)


@pytest.mark.parametrize("name", [*BESIDE, "second_product_of_h"])
def test_equals_a_loop_in_torch(name):
    module, cell = make(name), CELLS[name]
    # what is drawn shows in a cell that hands it on
    masks: dict[str, list[Any]] = {}
    if cell.noise:
        drawn, _ = copy.deepcopy(module._random).draw((T, N, H), N, np.dtype("float64"), None, None)
        for key, values in zip(cell.noise, drawn[0], strict=True):
            array = torch.from_numpy(values.array())
            masks[key] = [array] * T if array.shape == (N, H) else list(array.reshape(T, N, H))
    x, extra = draw(0, T, N, I), extra_of(name)
    got = run(module, x, extra)

    count = len(cell.states)
    inputs = {"x": torch.from_numpy(x).requires_grad_()}
    beside = {key: torch.from_numpy(value).requires_grad_() for key, value in (extra or {}).items()}
    inputs |= {f"state_{k}": torch.from_numpy(draw(20 + k, 1, N, H)[0]).requires_grad_() for k in range(count)}
    weights = {key: torch.from_numpy(value.copy()).requires_grad_() for key, value in module.parameters.items()}
    prev, ys = tuple([inputs[f"state_{k}"] for k in range(count)]), []
    for t in range(T):
        sums = inputs["x"][t] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        dt = beside["dt"][t][:, None] if extra else None
        its = {key: values[t] for key, values in masks.items()}
        prev = torch_step(
            name, sums, weights["weight_hh_l0"], weights["bias_hh_l0"], prev, its, dt, weights.get("unit_l0")
        )
        ys.append(prev[0])
    y = torch.stack(ys)
    loss = (y * torch.from_numpy(draw(1, T, N, H))).sum()
    loss += sum((s * torch.from_numpy(draw(30 + k, 1, N, H)[0])).sum() for k, s in enumerate(prev))
    loss.backward()
    want = {"y": y, "dx": inputs["x"].grad} | {key: value.grad for key, value in weights.items()}
    want |= {f"dextra_{key}": value.grad for key, value in beside.items()}
    want |= {f"state_{k}": s[None] for k, s in enumerate(prev)}
    want |= {f"dstate_{k}": inputs[f"state_{k}"].grad[None] for k in range(count)}
    assert got.keys() == want.keys()
    for key, value in want.items():
        value = value.detach().numpy()
        assert_close(key, got[key], value, 1e-11 * max(1.0, np.abs(value).max()))


def recurrent(name: str, **options: Any) -> Any:
    """torch's module of a cell, in inference."""
    noise = 0.4 if CELLS[name].noise else None
    return ours.Recurrent(CELLS[name], I, H, dtype=torch.float64, noise=noise, **options).eval()


def given_of(kind: str) -> dict[str, Any]:
    """What a run is given, as tensors."""
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in RUNS[kind].items()}


@cells
@pytest.mark.parametrize("kind", ["whole", "resets"])
def test_torch_equals_numpy(name, kind):
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    module = recurrent(name, **options)
    mine = make(name, **options)
    mine.load_state_dict(module.state_dict())
    x, extra = draw(0, T, N, I), extra_of(name)
    tensors = extra and {key: torch.from_numpy(value) for key, value in extra.items()}
    given = given_of(kind)
    y, _ = module(torch.from_numpy(x), extra=tensors, **given)
    want, _ = mine(x, extra=extra, **RUNS[kind])
    assert_close("y", y.detach().numpy(), want, 1e-13)
    module.train()
    found = []
    for retain in (True, False):
        torch.manual_seed(5)
        module.zero_grad()
        y, _ = module(torch.from_numpy(x), extra=tensors, **given)
        y.square().sum().backward(retain_graph=retain)
        if retain:
            module.zero_grad()
            y.square().sum().backward()  # which runs forward again, on the same draws
        found.append([y.detach(), *[p.grad.clone() for p in module.parameters()]])
    assert all(bool((a == b).all()) for a, b in zip(*found, strict=True))
    assert bool((found[0][0].numpy() != want).any()) == bool(CELLS[name].noise)


def test_torchs_gradients_with_noise_are_those_of_the_function():
    module = ours.Recurrent(everything, I, 3, num_layers=2, dtype=torch.float64, noise=0.5, batch_first=True)
    x = torch.from_numpy(draw(0, 2, 4, I)).requires_grad_()
    dt, w = (torch.rand(*shape, dtype=torch.float64).requires_grad_() for shape in ((2, 4), (2, 4, 3)))

    def loss(x: Any, dt: Any, w: Any) -> Any:
        torch.manual_seed(1)
        return module(x, extra={"dt": dt, "w": w})[0]

    assert torch.autograd.gradcheck(loss, (x, dt, w))
    assert torch.autograd.gradcheck(loss, (x.detach(), dt.detach(), w))


@extras
@pytest.mark.parametrize("kind", ["whole", "resets"])
def test_torchs_gradients_of_extras_equal_numpys(name, kind):
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    module = recurrent(name, **options)
    quiet = CELLS[name].without_noise(module._rates)
    mine = fastrnn.Recurrent(quiet, I, H, dtype="float64", seed=3, **options)
    mine.load_state_dict(module.state_dict())
    x, extra = draw(0, T, N, I), extra_of(name)
    y, _, tape = mine.forward(x, extra=extra, extra_gradients=True, **RUNS[kind])
    mine.backward(tape, 2 * y)
    given = given_of(kind)
    for turned in (False, True):  # with batch_first, and retained
        module.batch_first = turned
        tensors = {key: torch.from_numpy(value) for key, value in extra.items()}
        its_x = torch.from_numpy(x)
        if turned:
            tensors = {key: value.transpose(0, 1) for key, value in tensors.items()}
            given = {k: v.T if isinstance(v, torch.Tensor) else v for k, v in given.items()}
            its_x = its_x.transpose(0, 1)
        for value in tensors.values():
            value.requires_grad_()
        loss = module(its_x, extra=tensors, **given)[0].square().sum()
        for retain in (True, False):
            found = torch.autograd.grad(loss, [*tensors.values()], retain_graph=retain)
            for key, got in zip(tensors, found, strict=True):
                got = got.transpose(0, 1) if turned else got
                assert_close(key, got.numpy(), tape.dextra[key], 1e-11)


def test_torchs_packed_sequences_have_gradients_of_extras():
    lengths, cell = RUNS["lengths"]["lengths"], BESIDE["ltc_dt"]
    module = ours.Recurrent(cell, I, H, dtype=torch.float64)
    x, dt = torch.from_numpy(draw(0, T, N, I)), torch.from_numpy(np.abs(draw(1, T, N, H))).requires_grad_()
    kept = np.flatnonzero(lengths)
    packed, rows = (
        torch.nn.utils.rnn.pack_padded_sequence(v[:, kept], torch.from_numpy(lengths[kept]), enforce_sorted=False)
        for v in (x, dt)
    )
    module(packed, extra={"dt": rows.data})[0].data.square().sum().backward()
    got, dt.grad = dt.grad, None
    run = torch.arange(T)[:, None] < torch.from_numpy(lengths)
    module(x, mask=run, extra={"dt": dt})[0].square().sum().backward()
    assert_close("dt", got.numpy(), dt.grad.numpy(), 1e-13)


def test_torch_refuses_wrong_extras():
    module = ours.Recurrent(BESIDE["cfc_dt"], I, H)
    with pytest.raises(ValueError, match=r"extra\['dt'\] has shape \(6, 4\); expected \(6, 5\) or \(6, 5, 19\)"):
        module(torch.zeros(T, N, I), extra={"dt": torch.ones(T, 4)})
    with pytest.raises(ValueError, match="extra is None; expected a dict with dt, as the cell cfc_dt has it"):
        module(torch.zeros(T, N, I))
