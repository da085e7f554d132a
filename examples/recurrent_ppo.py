"""RecurrentPPO of sb3-contrib with the sequences of an update in one call of fastrnn.torch.

sb3-contrib cuts a rollout where episodes begin and pads the pieces. As each begins with a reset, its policy steps
through them, a call of the LSTM a step. Here `mask=` and `resets=` say what is padding and where episodes begin:

    pip install sb3-contrib
    python examples/recurrent_ppo.py             # CartPole without velocities, for 20,000 steps
    python examples/recurrent_ppo.py --compare   # the time of an update: stock, accelerated, and this one
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

import fastrnn.torch

PADDING = -1.0  # in episode_starts


class Buffer(RecurrentRolloutBuffer):
    """A rollout whose batches tell in episode_starts what is padding, too: that is all that the policy is given."""

    def _get_samples(self, *arguments: Any, **options: Any) -> Any:
        samples = super()._get_samples(*arguments, **options)
        return samples._replace(episode_starts=samples.episode_starts.masked_fill(samples.mask == 0, PADDING))


class Policy(RecurrentActorCriticPolicy):
    """sb3-contrib's policy, whose LSTMs are fastrnn's and take a batch of sequences at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        fastrnn.torch.accelerate(self)

    @staticmethod
    def _process_sequence(
        features: torch.Tensor, lstm_states: Any, episode_starts: torch.Tensor, lstm: Any
    ) -> tuple[torch.Tensor, Any]:
        """Return the outputs (n_seq * T, H), and the states, of features (n_seq * T, I) and episode_starts."""
        sequences = lstm_states[0].shape[1]
        x = features.reshape(sequences, -1, lstm.input_size).transpose(0, 1)  # (T, n_seq, I)
        starts = episode_starts.reshape(sequences, -1).T
        if len(x) == 1:  # a step of the environments
            kept = (starts[0] == 0).to(x.dtype)[:, None]
            y, states = lstm(x, tuple(state * kept for state in lstm_states))
        else:
            y, states = lstm(x, lstm_states, mask=starts != PADDING, resets=starts > 0)
        return y.transpose(0, 1).flatten(0, 1), states


class PPO(RecurrentPPO):
    """RecurrentPPO with that buffer; give it `Policy`."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.rollout_buffer.__class__ = Buffer


class Positions(gymnasium.ObservationWrapper):
    """CartPole that shows where cart and pole are, and not how fast: that takes a memory."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[::2], space.high[::2], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Leave the velocities out."""
        return observation[::2]


def make_model(cls: Any = PPO, policy: Any = Policy, envs: int = 8, **options: Any) -> Any:
    """Return a model with sb3-contrib's settings but for the number of environments."""
    from stable_baselines3.common.env_util import make_vec_env

    environments = make_vec_env(lambda: Positions(gymnasium.make("CartPole-v1")), envs, seed=0)
    return cls(policy, environments, seed=0, device="cpu", **options)


def compare(rounds: int = 5) -> dict[str, float]:
    """Return the CPU seconds of a reading of one rollout, the least of some rounds in turns, by who makes it."""
    torch.set_num_threads(1)
    stock = make_model(RecurrentPPO, RecurrentActorCriticPolicy, n_epochs=1)
    accelerated = make_model(RecurrentPPO, RecurrentActorCriticPolicy, n_epochs=1)
    fastrnn.torch.accelerate(accelerated.policy)
    models = {"stock": stock, "accelerated": accelerated, "this one": make_model(n_epochs=1)}
    stock.learn(stock.n_steps * stock.n_envs)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.set_logger(stock.logger)
        model.policy.load_state_dict(stock.policy.state_dict())
        vars(model.rollout_buffer).update(copy.deepcopy(vars(stock.rollout_buffer)))
    for k in range(rounds):
        for name, model in models.items():
            np.random.seed(k)  # noqa: NPY002 - it says how the rollout is cut into batches
            started = time.process_time()
            model.train()
            seconds[name].append(time.process_time() - started)
    return {name: min(its) for name, its in seconds.items()}


def main() -> None:
    """Train, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="time an update, on one thread")
    parser.add_argument("--steps", type=int, default=20_000, help="steps of the environments to train for")
    arguments = parser.parse_args()
    if arguments.compare:
        seconds = compare()
        for name, least in seconds.items():
            print(f"{name:12} {least * 1000:8.1f} ms, {seconds['stock'] / least:.2f} times as fast as stock")
        return
    started = time.perf_counter()
    model = make_model().learn(arguments.steps)
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    print(
        f"{arguments.steps:,} steps in {time.perf_counter() - started:.0f} s; episodes last {np.mean(lengths):.0f} now"
    )


if __name__ == "__main__":
    main()
