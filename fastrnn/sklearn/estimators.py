"""SequenceClassifier and SequenceRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.utils import assert_all_finite, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data
except ModuleNotFoundError as error:
    message = 'fastrnn.sklearn needs scikit-learn: pip install "fastrnn[sklearn]"'
    raise ModuleNotFoundError(message, name=error.name) from None

import fastrnn
from fastrnn.checks import Array, check_choice, check_positive, shown
from fastrnn.sklearn.files import KeptEstimator
from fastrnn.sklearn.inputs import as_sequences, as_table, is_frame, targets_of_ids
from fastrnn.training import AttentionPool, Dropout, History, Last, Linear, Pool, Sequential, fit, predict
from fastrnn.training.optimizers import Adam
from fastrnn.training.sequences import take_sequences, take_steps

__all__ = ["SequenceClassifier", "SequenceRegressor"]

CELLS = {"gru": fastrnn.GRU, "lstm": fastrnn.LSTM, "rnn": fastrnn.RNN}
POOLINGS = ("mean", "last", "max", "attention")


def build(
    columns: int,
    outputs: int,
    seed: int,
    *,
    cell: Any,
    hidden_size: Any,
    num_layers: Any,
    bidirectional: Any,
    dropout: Any,
    pooling: str | None,
) -> Sequential:
    """Return a model of K outputs, for each sequence, or without a pooling for every step."""
    cls = CELLS[check_choice("cell", cell, CELLS)]
    of_rnn, of_pool, of_head = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
    between = dropout if num_layers > 1 else 0.0
    rnn = cls(columns, hidden_size, num_layers, dropout=between, bidirectional=bidirectional, seed=of_rnn)
    size = hidden_size * rnn.directions
    layers: dict[str, Any] = {"rnn": rnn}
    if pooling == "last":
        layers = {"rnn": Last(rnn)}
    elif pooling == "attention":
        layers["pool"] = AttentionPool(size, max(1, size // 2), seed=of_pool)
    elif pooling is not None:
        layers["pool"] = Pool(pooling)
    if dropout:
        layers["dropout"] = Dropout(dropout)
    layers["head"] = Linear(size, outputs, seed=of_head)
    return Sequential(layers)


class _SequenceEstimator(KeptEstimator):
    """What both have in common: arguments, scaling, training, files."""

    _fewest = 20  # sequences from which on a share is held out
    _flat_: bool  # whether fit was given a table (n, T)
    _optimizer_state_: dict[str, Array] | None  # for the next partial_fit

    def __init__(
        self,
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        bidirectional: bool = True,
        dropout: float = 0.0,
        pooling: str = "mean",
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 0.005,
        schedule: str = "cosine",
        validation: float | None = 0.1,
        patience: int | None = 15,
        scale: bool = True,
        warm_start: bool = False,
        id_column: Any = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.pooling = pooling
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.validation = validation
        self.patience = patience
        self.scale = scale
        self.warm_start = warm_start
        self.id_column = id_column
        self.random_state = random_state
        self.verbose = verbose

    # ---- X

    def _take(self, X: Any, y: Any, reset: bool) -> tuple[Any, list[Any] | None]:
        """Return sequences as `fit` takes them, and the ids of a frame; they must be as those of `fit` were."""
        X = as_table(X, self.id_column)
        flat = not isinstance(X, list) and np.ndim(X) <= 2 and not (is_frame(X) and self.id_column is not None)
        if flat and (reset or self._flat_):
            self._flat_ = True
            X = validate_data(self, X, reset=reset, dtype="numeric")
            return X[..., None], None
        sequences, ids, names = as_sequences(X, self.id_column)
        columns = take_sequences("X", sequences, np.dtype(np.float32)).values.shape[1]
        if reset:
            self.__dict__.pop("feature_names_in_", None)
            self._flat_ = False
            self.n_features_in_ = columns
            if names is not None:
                self.feature_names_in_ = np.array(names, object)
        elif columns != (1 if self._flat_ else self.n_features_in_):
            raise ValueError(f"X has {columns} columns; expected {self.n_features_in_}, as fit was given")
        known = getattr(self, "feature_names_in_", None)
        if not reset and names is not None and known is not None and list(known) != names:
            raise ValueError(f"X has the columns {', '.join(names)}; expected {', '.join(known)}, as fit was given")
        return sequences, ids

    def _fit_scale(self, sequences: Any) -> None:
        rows = take_sequences("X", sequences, np.dtype(np.float64)).values
        if self.scale:
            spread = rows.std(axis=0)
            self.mean_, self.scale_ = rows.mean(axis=0), np.where(spread > 0, spread, 1.0)
        else:
            self.mean_, self.scale_ = np.zeros(rows.shape[1]), np.ones(rows.shape[1])

    def _scaled(self, sequences: Any) -> Any:
        if isinstance(sequences, np.ndarray):
            return ((sequences - self.mean_) / self.scale_).astype(np.float32)
        return [((np.asarray(each) - self.mean_) / self.scale_).astype(np.float32) for each in sequences]

    # ---- training

    def _make(self, outputs: int) -> None:
        """Draw the model."""
        self._seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.model_ = build(
            len(self.mean_),
            outputs,
            self._seed_,
            cell=self.cell,
            hidden_size=check_positive("hidden_size", self.hidden_size),
            num_layers=check_positive("num_layers", self.num_layers),
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            pooling=self._pooling(),
        )

    def _pooling(self) -> str | None:
        return check_choice("pooling", self.pooling, POOLINGS)

    def _train(self, sequences: Any, y: Any, weights: Any, epochs: int, before: int, **options: Any) -> History:
        """Train the model; the order of the sequences goes by how many epochs there were before."""
        return fit(
            self.model_,
            self._scaled(sequences),
            y,
            epochs=epochs,
            batch_size=self.batch_size,
            sample_weight=weights,
            progress=bool(self.verbose),
            seed=self._seed_ + before,
            **options,
        )

    def _fit(self, sequences: Any, y: Any, outputs: int, weights: Any, anew: bool, **options: Any) -> None:
        if anew:
            self._make(outputs)
        enough = len(sequences) >= self._fewest
        self._optimizer_state_ = None
        self.history_ = self._train(
            sequences,
            y,
            weights,
            self.epochs,
            0,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            validation=self.validation if enough else None,
            patience=self.patience if enough else None,
            **options,
        )
        self.n_iter_ = len(self.history_.epochs)

    def _fit_partly(self, sequences: Any, y: Any, outputs: int, weights: Any, anew: bool, **options: Any) -> None:
        """Read the data once; the optimizer goes on from where it was."""
        if anew:
            self._make(outputs)
            self._optimizer_state_, self.n_iter_ = None, 0
        optimizer = Adam(self.model_.parameters, self.learning_rate)
        if self._optimizer_state_ is not None:
            optimizer.load_state_dict(self._optimizer_state_)
        self.history_ = self._train(sequences, y, weights, 1, self.n_iter_, optimizer=optimizer, **options)
        self._optimizer_state_ = optimizer.state_dict()
        self.n_iter_ += 1

    def _outputs(self, X: Any) -> Any:
        check_is_fitted(self)
        sequences, _ = self._take(X, None, False)
        return predict(self.model_, self._scaled(sequences))


class SequenceClassifier(ClassifierMixin, _SequenceEstimator):  # type: ignore[misc]
    """A class for each sequence: a recurrent layer, a pooling over its steps, and a linear layer.

    Parameters
    ----------
    cell
        "gru", "lstm" or "rnn".
    hidden_size, num_layers, bidirectional
        Of the recurrent part.
    dropout
        Between its layers and before the linear one.
    pooling
        What of a sequence's steps is looked at: their "mean", "max", "last", or a learned average, "attention".
    epochs, batch_size, learning_rate, schedule
        As for `fastrnn.training.fit`; the optimizer is Adam.
    validation, patience
        The share of the sequences that is held out, drawn, and how many epochs in a row without a lower loss on it end
        training; the best parameters are kept. Of fewer than 100 sequences none are held out: of less than ten the
        loss says little.
    scale
        Whether to shift and scale each column to a mean of 0 and a deviation of 1.
    class_weight
        None, "balanced", or a mapping of classes to weights.
    warm_start
        Whether `fit` goes on from the model that there is.
    id_column
        Of a frame of pandas or polars: the column that says of which sequence a row is. Targets are one for each id, in
        the order in which these first occur, or a pandas Series with the ids as its index.
    random_state
        Of the parameters, the held-out share and the batches; the same integer gives the same bits.
    verbose
        Whether to show a progress bar on a terminal.

    Attributes
    ----------
    classes_ : ndarray
    model_ : Sequential
    history_ : History
    n_iter_ : int
        How many epochs there were.
    n_features_in_ : int
        Columns, or of a table (n, T) steps.

    Notes
    -----
    X is an array (n, T, I), a list of arrays (T, I) of any T, a table (n, T) of one column each, or a frame with a
    column of ids. `partial_fit` reads what it is given once.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.sklearn import SequenceClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((length, 2)) for length in rng.integers(5, 15, 100)]
    >>> y = np.array(["up" if x[:, 0].mean() > 0 else "down" for x in X])
    >>> classifier = SequenceClassifier(hidden_size=16, epochs=30, random_state=0).fit(X, y)
    >>> classifier.score(X, y) > 0.9, classifier.predict_proba(X[:3]).shape
    (True, (3, 2))
    """

    _fewest = 100

    def __init__(
        self,
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        bidirectional: bool = True,
        dropout: float = 0.0,
        pooling: str = "mean",
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 0.005,
        schedule: str = "cosine",
        validation: float | None = 0.1,
        patience: int | None = 15,
        scale: bool = True,
        class_weight: Any = None,
        warm_start: bool = False,
        id_column: Any = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            cell,
            hidden_size,
            num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            pooling=pooling,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            validation=validation,
            patience=patience,
            scale=scale,
            warm_start=warm_start,
            id_column=id_column,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceClassifier:
        """Train on sequences X and their classes y (n,).

        Raises
        ------
        TypeError, ValueError
            If X or y is not what it should be, or y has one class only.
        """
        warm = self.warm_start and hasattr(self, "model_")
        sequences, ids = self._take(X, y, not warm)
        y = self._take_y(targets_of_ids(y, ids), len(sequences))
        if warm:
            codes = self._codes(y)
        else:
            self.classes_, codes = np.unique(y, return_inverse=True)
            self._check_classes()
            self._fit_scale(sequences)
        self._fit(
            sequences, codes, len(self.classes_), sample_weight, not warm, class_weight=self._weights_of_classes()
        )
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> SequenceClassifier:
        """Read X and y once and go on from the model that there is; the first call is given all classes.

        Columns are scaled as the first call found them.
        """
        first = not hasattr(self, "model_")
        sequences, ids = self._take(X, y, first)
        y = self._take_y(targets_of_ids(y, ids), len(sequences))
        if first:
            if classes is None:
                raise ValueError("classes is None; expected all classes in the first call of partial_fit")
            self.classes_ = np.unique(classes)
            self._check_classes()
            self._fit_scale(sequences)
        weights = self._weights_of_classes()
        self._fit_partly(sequences, self._codes(y), len(self.classes_), sample_weight, first, class_weight=weights)
        return self

    def predict(self, X: Any) -> Array:
        """Return the likeliest class of each sequence, (n,)."""
        outputs = self._outputs(X)
        found: Array = self.classes_.take(outputs.argmax(axis=1))
        return found

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n, K), in the order of `classes_`."""
        logits = self._outputs(X).astype(np.float64)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Array = p / p.sum(axis=1, keepdims=True)
        return found

    def decision_function(self, X: Any) -> Array:
        """Return logits (n, K), or of two classes by how much the second one's is larger, (n,)."""
        logits: Array = self._outputs(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of the sequences whose class is predicted; ValueError for a class that fit has not seen."""
        check_is_fitted(self)
        sequences, ids = self._take(X, y, False)
        y = self._take_y(targets_of_ids(y, ids), len(sequences))
        self._codes(y)
        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))

    def _take_y(self, y: Any, n: int) -> Array:
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        found: Array = column_or_1d(np.asarray(y), warn=True)
        assert_all_finite(found, input_name="y")
        check_classification_targets(found)
        if found.dtype == object and not all(isinstance(each, str) for each in found):
            raise TypeError("y has classes of several kinds; expected texts, or numbers")
        if len(found) != n:
            raise ValueError(f"y has {len(found)} classes; expected {n}, one for each sequence of X")
        return found

    def _check_classes(self) -> None:
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {shown(self.classes_[0].item())}; expected at least two")

    def _codes(self, y: Array) -> Array:
        """The places of classes among those that fit has seen."""
        unseen = np.setdiff1d(y, self.classes_)
        if len(unseen):
            some = ", ".join(shown(each) for each in unseen[:5].tolist())
            known = ", ".join(shown(each) for each in self.classes_[:20].tolist())
            raise ValueError(f"y has {some}, which fit has not seen; expected classes among {known}")
        found: Array = np.searchsorted(self.classes_, y)
        return found

    def _weights_of_classes(self) -> Any:
        if self.class_weight is None or isinstance(self.class_weight, str):
            return self.class_weight
        known = self.classes_.tolist()
        for name in self.class_weight:
            if name not in known:
                raise ValueError(
                    f"class_weight has {shown(name)}; expected classes among {', '.join(map(shown, known))}"
                )
        return {known.index(name): weight for name, weight in self.class_weight.items()}


class SequenceRegressor(RegressorMixin, _SequenceEstimator):  # type: ignore[misc]
    """One value for each sequence, or one for each of its steps; several if y has columns.

    Parameters
    ----------
    every_step
        Whether there is a target for each step: y is an array (n, T) or (n, T, K), or a list of arrays (T,) or (T, K).
        Then there is no pooling. Otherwise y is (n,) or (n, K).
    loss
        "mse" or "mae".
    others
        As for `SequenceClassifier`. Targets are scaled, too.

    Attributes
    ----------
    model_, history_, n_iter_, n_features_in_
        As for `SequenceClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.sklearn import SequenceRegressor
    >>> X = np.random.default_rng(0).standard_normal((100, 8, 2))
    >>> y = X[:, :, 0].cumsum(axis=1)
    >>> regressor = SequenceRegressor(every_step=True, bidirectional=False, random_state=0).fit(X, y)
    >>> regressor.score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        every_step: bool = False,
        loss: str = "mse",
        bidirectional: bool = True,
        dropout: float = 0.0,
        pooling: str = "mean",
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 0.005,
        schedule: str = "cosine",
        validation: float | None = 0.1,
        patience: int | None = 15,
        scale: bool = True,
        warm_start: bool = False,
        id_column: Any = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            cell,
            hidden_size,
            num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            pooling=pooling,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            validation=validation,
            patience=patience,
            scale=scale,
            warm_start=warm_start,
            id_column=id_column,
            random_state=random_state,
            verbose=verbose,
        )
        self.every_step = every_step
        self.loss = loss

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """Train on sequences X and targets y; TypeError or ValueError if they are not what they should be."""
        warm = self.warm_start and hasattr(self, "model_")
        sequences, ids = self._take(X, y, not warm)
        targets = self._take_y(targets_of_ids(y, ids), sequences)
        if not warm:
            self._fit_scale(sequences)
            self._fit_scale_of_y(targets)
        self._fit(
            sequences, self._scaled_y(targets, sequences), self._width, sample_weight, not warm, loss=self._loss()
        )
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """Read X and y once and go on from the model that there is; scales are those that the first call found."""
        first = not hasattr(self, "model_")
        sequences, ids = self._take(X, y, first)
        targets = self._take_y(targets_of_ids(y, ids), sequences)
        if first:
            self._fit_scale(sequences)
            self._fit_scale_of_y(targets)
        scaled = self._scaled_y(targets, sequences)
        self._fit_partly(sequences, scaled, self._width, sample_weight, first, loss=self._loss())
        return self

    def predict(self, X: Any) -> Any:
        """Return values of the shape of y: (n,) or (n, K); of every step also (n, T), or a list if X has no one T."""
        y = self._outputs(X)
        return [self._back(each) for each in y] if isinstance(y, list) else self._back(y)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination, of all steps together."""
        if not self.every_step:
            return float(super().score(X, y, sample_weight))
        check_is_fitted(self)
        sequences, ids = self._take(X, y, False)
        found = self.predict(X)
        flat = np.concatenate(list(found))
        weights = None if sample_weight is None else np.repeat(sample_weight, [len(each) for each in found])
        return float(r2_score(self._take_y(targets_of_ids(y, ids), sequences), flat, sample_weight=weights))

    @property
    def _width(self) -> int:
        return len(self.y_mean_)

    def _pooling(self) -> str | None:
        return None if self.every_step else super()._pooling()

    def _loss(self) -> str:
        return check_choice("loss", self.loss, ("mse", "mae"))

    def _take_y(self, y: Any, sequences: Any) -> Array:
        """Return targets (n, ...), or of all steps (S, ...), as floats."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        if self.every_step:
            x = take_sequences("X", sequences, np.dtype(np.float32))
            return take_steps("y", y, x, "X").astype(np.float64)
        if isinstance(y, (list, tuple)) and len({np.shape(each) for each in y}) > 1:
            raise ValueError("y has targets of different lengths; expected one of each sequence, or every_step=True")
        y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if len(y) != len(sequences):
            raise ValueError(f"y has {len(y)} targets; expected {len(sequences)}, one for each sequence of X")
        return np.asarray(y, np.float64)

    def _fit_scale_of_y(self, y: Array) -> None:
        self._y_is_flat_ = y.ndim == 1
        table = y[:, None] if y.ndim == 1 else y
        spread = table.std(axis=0)
        self.y_mean_, self.y_scale_ = table.mean(axis=0), np.where(spread > 0, spread, 1.0)

    def _scaled_y(self, y: Array, sequences: Any) -> Any:
        table = y[:, None] if y.ndim == 1 else y
        if table.shape[1] != self._width:
            raise ValueError(f"y has {table.shape[1]} columns; expected {self._width}, as fit was given")
        scaled = (table - self.y_mean_) / self.y_scale_
        if not self.every_step:
            return scaled
        return np.split(scaled, np.cumsum([len(each) for each in sequences])[:-1])

    def _back(self, y: Array) -> Array:
        found: Array = y.astype(np.float64) * self.y_scale_ + self.y_mean_
        return found[..., 0] if self._y_is_flat_ else found
