"""Federated averaging with Flower: clients train on data that stay with them, the server averages their weights.

    pip install flwr ray
    python examples/on_flower.py

It trains a classifier with four clients, all on this machine, and prints how many of unseen sequences the average tells
right after each round. A client takes arrays by name and gives them back: `state_dict` and `fit` are all that it needs.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

import fastrnn
from fastrnn.training import Last, Linear, Sequential, fit, pad

CLIENTS, ROUNDS = 4, 5
client, server = ClientApp(), ServerApp()


def data_of(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return sequences of different lengths, and whether the first values of each add up to more than 0."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((length, 4)).astype(np.float32) for length in rng.integers(5, 30, 200)]
    return X, np.array([int(x[:, 0].sum() > 0) for x in X])


def make_model(weights: ArrayRecord | None = None) -> Sequential:
    """Return the classifier, with the weights that came."""
    model = Sequential(Last(fastrnn.LSTM(4, 16, seed=0)), Linear(16, 2, seed=1))
    if weights is not None:
        model.load_state_dict({name: weights[name].numpy() for name in model.parameters})
    return model


def weights_of(model: Sequential) -> ArrayRecord:
    """Return a model's weights as Flower sends them."""
    return ArrayRecord({name: Array(array) for name, array in model.state_dict().items()})


def share_right(weights: ArrayRecord) -> float:
    """Return how many of sequences that no client has seen are told right."""
    X, y = data_of(seed=CLIENTS)
    padded, lengths = pad(X)
    return float((make_model(weights)(padded, lengths=lengths).argmax(1) == y).mean())


@client.train()
def train(message: Message, context: Context) -> Message:
    """What a client does in a round."""
    X, y = data_of(seed=int(context.node_config["partition-id"]))
    model = make_model(message.content["arrays"])
    fit(model, X, y, epochs=2, learning_rate=0.01, progress=False)
    content = RecordDict({"arrays": weights_of(model), "metrics": MetricRecord({"num-examples": len(X)})})
    return Message(content=content, reply_to=message)


@server.main()
def average(grid: Grid, context: Context) -> None:
    """What the server does."""

    def evaluate(round_number: int, weights: ArrayRecord) -> MetricRecord:
        print(f"round {round_number}: {share_right(weights):.3f} of unseen sequences right")
        return MetricRecord({"right": share_right(weights)})

    strategy = FedAvg(fraction_evaluate=0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    result = strategy.start(grid, weights_of(make_model()), num_rounds=ROUNDS, evaluate_fn=evaluate)
    if share_right(result.arrays) < 0.9:
        raise SystemExit("the average has not learnt what the clients know")


if __name__ == "__main__":
    run_simulation(server, client, num_supernodes=CLIENTS)
