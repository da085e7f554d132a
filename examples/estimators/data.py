"""Public data sets that come inside packages: sequences of shape (T, I), and a class for each; and a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

HELD = 60  # years of sunspots that are forecast
HORIZON, LOOKBACK = 12, 24


@dataclass(frozen=True)
class Classes:
    """Sequences to train with and to be scored on."""

    x: list[Any]
    y: Any
    x_test: list[Any]
    y_test: Any

    @property
    def about(self) -> str:
        """What there is, in a few words."""
        lengths = [len(each) for each in [*self.x, *self.x_test]]
        span = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
        columns = self.x[0].shape[1]
        counted = f"{columns} column{'s' * (columns > 1)}"
        return f"{len(self.x)} and {len(self.x_test)} sequences of {span} steps, {counted}, {len(set(self.y))} classes"


@dataclass(frozen=True)
class Series:
    """A series to train with; its last HELD steps are forecast, HORIZON at a time, from all that is before each."""

    values: Any

    @property
    def train(self) -> Any:
        """The steps that are known."""
        return self.values[:-HELD]

    @property
    def test(self) -> Any:
        """The steps that are forecast, and those that the first forecast looks at."""
        return self.values[-HELD - LOOKBACK :]

    @property
    def about(self) -> str:
        """What there is, in a few words."""
        return f"one series of {len(self.train)} steps, the next {HELD} in forecasts of {HORIZON}"


def vowels() -> Classes:
    """Speakers by the vowel that they say, of different lengths (aeon)."""
    from aeon.datasets import load_japanese_vowels

    return _of_aeon(load_japanese_vowels)


def motions() -> Classes:
    """What somebody with a watch is doing (aeon)."""
    from aeon.datasets import load_basic_motions

    return _of_aeon(load_basic_motions)


def power() -> Classes:
    """Days of electrical power demand, winter or summer (aeon)."""
    from aeon.datasets import load_italy_power_demand

    return _of_aeon(load_italy_power_demand)


def digits() -> Classes:
    """Handwritten digits, line by line (scikit-learn)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    x, x_test, y, y_test = train_test_split(loaded.images, loaded.target, test_size=0.5, random_state=0)
    return Classes(list(x), y, list(x_test), y_test)


def sunspots() -> Series:
    """Sunspots of each year (statsmodels)."""
    from statsmodels.datasets import sunspots

    return Series(sunspots.load_pandas().data["SUNACTIVITY"].to_numpy())


def _of_aeon(load: Any) -> Classes:
    (x, y), (x_test, y_test) = (load(split=split) for split in ("train", "test"))
    return Classes([each.T for each in x], np.asarray(y), [each.T for each in x_test], np.asarray(y_test))
