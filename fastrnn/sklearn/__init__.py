"""Estimators for scikit-learn: sequences of any lengths, pandas and polars frames; pipelines, searches, no padding."""

from fastrnn.sklearn.estimators import SequenceClassifier, SequenceRegressor
from fastrnn.sklearn.forecaster import SequenceForecaster

__all__ = ["SequenceClassifier", "SequenceForecaster", "SequenceRegressor"]
