"""examples/recurrent_ppo.py: sb3-contrib's policy in one call of the LSTM does what it does step by step."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tolerances import assert_close, tolerance

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "recurrent_ppo.py"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("sb3_contrib") is None,
        reason="sb3-contrib, which brings pandas, 80 MB, is not in the extra `test`: pip install sb3-contrib",
    ),
    pytest.mark.filterwarnings("ignore"),  # of pygame, which gymnasium looks for
]


@pytest.fixture(scope="module")
def example() -> Any:
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("recurrent_ppo", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_pair(example: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Two models of the same parameters, the stock one with a rollout that the other has too."""
    policy = {"lstm_hidden_size": 7, "optimizer_class": torch.optim.SGD} | kwargs
    options = {"envs": 3, "n_steps": 40, "batch_size": 50, "n_epochs": 2, "learning_rate": 0.1, "policy_kwargs": policy}
    stock = example.make_model(example.RecurrentPPO, example.RecurrentActorCriticPolicy, **options)
    ours = example.make_model(**options)
    stock.learn(120)
    ours.set_logger(stock.logger)
    ours.policy.load_state_dict(stock.policy.state_dict())
    vars(ours.rollout_buffer).update(example.copy.deepcopy(vars(stock.rollout_buffer)))
    return stock, ours


KINDS = [{}, {"n_lstm_layers": 2}, {"enable_critic_lstm": False, "shared_lstm": True}]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_update_is_that_of_the_stock_policy(example: Any, options: dict[str, Any]) -> None:
    """Values, likelihoods and gradients on every batch of a rollout; then the parameters after training on it."""
    stock, ours = make_pair(example, **options)
    batches = []
    for model in (stock, ours):
        np.random.seed(0)  # noqa: NPY002 - which sb3 draws from
        batches.append(list(model.rollout_buffer.get(50)))
    episodes = 0
    for theirs, own in zip(*batches, strict=True):
        found = []
        for model, batch in ((stock, theirs), (ours, own)):
            value, likelihood, entropy = model.policy.evaluate_actions(
                batch.observations, batch.actions.long().flatten(), batch.lstm_states, batch.episode_starts
            )
            outputs = [value.flatten(), likelihood, entropy]
            real = batch.mask > 0
            model.policy.zero_grad()
            sum((output[real] * torch.arange(1, 1 + int(real.sum()))).sum() for output in outputs).backward()
            grads = {name: p.grad.numpy() for name, p in model.policy.named_parameters() if p.grad is not None}
            found.append({f"output {k}": o[real].detach().numpy() for k, o in enumerate(outputs)} | grads)
        episodes += int((own.episode_starts > 0).sum())
        assert (own.episode_starts == example.PADDING).any()
        assert found[0].keys() == found[1].keys()
        for name, want in found[0].items():
            assert_close(name, found[1][name], want, tolerance(want, "float32", 50 * 100))
    assert episodes > 5
    for model in (stock, ours):
        np.random.seed(1)  # noqa: NPY002
        model.train()
    theirs = dict(stock.policy.named_parameters())
    for name, p in ours.policy.named_parameters():
        assert_close(name, p.detach().numpy(), theirs[name].detach().numpy(), 2e-5)


def test_a_step_of_the_environments_is_that_of_the_stock_policy(example: Any) -> None:
    stock, ours = make_pair(example)
    rng = np.random.default_rng(0)
    states = tuple(torch.from_numpy(rng.standard_normal((1, 3, 7), dtype=np.float32)) for _ in range(2))
    states = type(stock._last_lstm_states)(states, states)
    observations, starts = (
        torch.from_numpy(rng.standard_normal((3, 2), dtype=np.float32)),
        torch.tensor([0.0, 1.0, 0.0]),
    )
    results = [model.policy(observations, states, starts, deterministic=True) for model in (stock, ours)]
    for name, want, got in zip(("actions", "values", "log_prob"), *results, strict=False):
        assert_close(name, got.detach().double().numpy(), want.detach().double().numpy(), 1e-6)
    for want, got in zip(results[0][3].pi + results[0][3].vf, results[1][3].pi + results[1][3].vf, strict=True):
        assert_close("state", got.detach().numpy(), want.detach().numpy(), 1e-6)
    assert not np.allclose(results[0][3].pi[0].detach()[0, 0], results[0][3].pi[0].detach()[0, 1])
