"""The estimators of fastrnn.sklearn as they come."""

from __future__ import annotations

import time

from data import HORIZON, LOOKBACK, Classes, Series

from fastrnn.sklearn import SequenceClassifier, SequenceForecaster


def classify(data: Classes, seed: int) -> tuple[float, float]:
    """Return the accuracy, and the seconds that training took."""
    start = time.perf_counter()
    classifier = SequenceClassifier(random_state=seed).fit(data.x, data.y)
    seconds = time.perf_counter() - start
    return classifier.score(data.x_test, data.y_test), seconds


def forecast(data: Series, seed: int) -> tuple[float, float]:
    """Return the coefficient of determination, and the seconds that training took."""
    start = time.perf_counter()
    forecaster = SequenceForecaster(HORIZON, LOOKBACK, random_state=seed).fit(data.train)
    seconds = time.perf_counter() - start
    return forecaster.score(data.test), seconds
