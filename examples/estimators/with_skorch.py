"""The same networks, as torch modules that skorch trains."""

from __future__ import annotations

import time
from typing import Any

import torch
from by_hand import arrays, determination, windows
from data import HORIZON, Classes, Series
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EarlyStopping, GradientNormClipping
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn


class Classifier(nn.Module):
    """A bidirectional GRU, the mean over the steps that there are, and a linear layer."""

    def __init__(self, columns: int, classes: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(columns, 64, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (n, K)."""
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(y.sum(1) / lengths[:, None])


class Forecaster(nn.Module):
    """A GRU, and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, 64, batch_first=True)
        self.head = nn.Linear(64, HORIZON)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next steps, (n, HORIZON)."""
        return self.head(self.rnn(x)[1][0])


def classify(data: Classes, seed: int) -> tuple[float, float]:
    """Return the accuracy, and the seconds that training took."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    train, held, test = ({"x": x, "lengths": n, "y": y} for x, n, y in arrays(data, seed))
    y, y_held, y_test = (part.pop("y") for part in (train, held, test))
    sizes = {"module__columns": train["x"].shape[2], "module__classes": len(set(data.y))}
    net = _train(NeuralNetClassifier, Classifier, train, y, held, y_held, criterion=nn.CrossEntropyLoss, **sizes)
    seconds = time.perf_counter() - start
    return float((net.predict(test) == y_test).mean()), seconds


def forecast(data: Series, seed: int) -> tuple[float, float]:
    """Return the coefficient of determination, and the seconds that training took."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    (x, y), (x_held, y_held), (x_test, y_test) = windows(data)
    net = _train(NeuralNetRegressor, Forecaster, x, y, x_held, y_held)
    seconds = time.perf_counter() - start
    return determination(y_test, net.predict(x_test)), seconds


def _train(cls: Any, module: type[nn.Module], x: Any, y: Any, x_held: Any, y_held: Any, **options: Any) -> NeuralNet:
    net = cls(
        module,
        optimizer=torch.optim.Adam,
        lr=0.005,
        max_epochs=100,
        batch_size=32,
        iterator_train__shuffle=True,
        train_split=predefined_split(Dataset(x_held, y_held)),
        callbacks=[EarlyStopping(patience=15, load_best=True), GradientNormClipping(1.0)],
        verbose=0,
        **options,
    )
    return net.fit(x, y)
