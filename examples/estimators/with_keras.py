"""The same networks, trained by Keras."""

from __future__ import annotations

import time
from typing import Any

import keras
from by_hand import arrays, determination, windows
from data import HORIZON, Classes, Series
from keras import layers


def classify(data: Classes, seed: int) -> tuple[float, float]:
    """Return the accuracy, and the seconds that training took."""
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    (x, _, y), (x_held, _, y_held), (x_test, _, y_test) = arrays(data, seed)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Masking(),
            layers.Bidirectional(layers.GRU(64, return_sequences=True)),
            layers.GlobalAveragePooling1D(),
            layers.Dense(len(set(data.y)), activation="softmax"),
        ]
    )
    _train(model, "sparse_categorical_crossentropy", x, y, x_held, y_held)
    seconds = time.perf_counter() - start
    return float((model.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean()), seconds


def forecast(data: Series, seed: int) -> tuple[float, float]:
    """Return the coefficient of determination, and the seconds that training took."""
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    (x, y), (x_held, y_held), (x_test, y_test) = windows(data)
    model = keras.Sequential([keras.Input(x.shape[1:]), layers.GRU(64), layers.Dense(HORIZON)])
    _train(model, "mse", x, y, x_held, y_held)
    seconds = time.perf_counter() - start
    return determination(y_test, model.predict(x_test, verbose=0)), seconds


def _train(model: Any, loss: str, x: Any, y: Any, x_held: Any, y_held: Any) -> None:
    model.compile(keras.optimizers.Adam(0.005, clipnorm=1.0), loss)
    stop = keras.callbacks.EarlyStopping(patience=15, restore_best_weights=True)
    model.fit(x, y, batch_size=32, epochs=100, validation_data=(x_held, y_held), callbacks=[stop], verbose=0)
