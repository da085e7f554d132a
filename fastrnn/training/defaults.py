"""What a training run is where nobody says: from the size and kind of the text, and the time that the cores have."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backends import check_run
from fastrnn.checks import LARGEST, check_instance, check_number
from fastrnn.threads import get_num_threads
from fastrnn.training.clipping import clip_global_norm
from fastrnn.training.settings import OPTIMIZERS, Settings, build_model, build_tokenizer
from fastrnn.training.text import Text, text_pieces

__all__ = ["TextKind", "choose_settings", "inspect_text"]

MINUTES = 5.0  # of training, unless somebody says
CORE = 70e9  # flops a second of one of two cores with AVX-512, in steps of two layers of 256 units in 32 rows
MOST_CORES = 8  # that such steps keep busy

SEEN = 1_000_000  # characters of a text that say of what kind it is
LIST_WORDS, LIST_LENGTH, LIST_LINES = 3, 64, 20  # words and characters of an entry of a list, and how many it has

ONE_LAYER, TWO_LAYERS = (64, 96, 128, 192, 256), (256, 384, 512, 768, 1024)  # units, with more and more weights
LAYERS_AND_UNITS = (*((1, units) for units in ONE_LAYER), *((2, units) for units in TWO_LAYERS))
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
OTHER_RATES = {"adamw": 0.005, "rmsprop": 0.005, "momentum": 0.1, "sgd": 1.0}  # for Adam the rule has one


class TextKind(NamedTuple):
    """What the defaults follow from."""

    characters: int
    lines: int  # that are not empty, in as much of the text as was looked at
    length: float  # of such a line, on average, with its end
    is_list: bool  # whether they are entries of a list: short, and independent of one another


def inspect_text(text: str | Text) -> TextKind:
    r"""Return what kind of a text it is.

    It is a list if 19 of 20 lines that are not empty have at most 64 characters, all of them at most 3 words on
    average, and empty ones are rare. Names have 1 word a line, plays 6, sonnets 8.

    Examples
    --------
    >>> inspect_text("Aardonyx\nAbelisaurus\n" * 50)
    TextKind(characters=1050, lines=100, length=10.5, is_list=True)
    """
    seen: list[str] = []
    characters = 0
    for piece in text_pieces(text):
        if characters < SEEN:
            seen.append(piece[: SEEN - characters])
        characters += len(piece)
    every = "".join(seen).split("\n")
    lines = [line for line in every if line.strip()]
    if not lines:
        return TextKind(characters, 0, 0.0, False)
    few_words = sum(len(line.split()) for line in lines) <= LIST_WORDS * len(lines)
    short = sum(len(line) <= LIST_LENGTH for line in lines) >= 0.95 * len(lines)
    filled = len(lines) >= max(LIST_LINES, 0.9 * (len(every) - 1))
    length = sum(map(len, lines)) / len(lines) + 1
    return TextKind(characters, len(lines), length, few_words and short and filled)


def choose_settings(
    text: str | Text,
    *,
    minutes: float | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
    **given: Any,
) -> Settings:
    """Return the settings that suit a text: what `fastrnn train` takes where no option says otherwise.

    Without `minutes` they follow from the text, the number of threads and what is given; the steps are those of about
    five minutes on cores with AVX-512. With it, a few steps are timed here, and as many are chosen as fit. Either way
    their number is fixed before the first one: so a run that goes on from a checkpoint is the same in every bit. A run
    ends before its last step where the held-out loss no longer falls.

    Parameters
    ----------
    text
        To train on.
    minutes
        For how long to train at most, if the machine stays as busy as it is now.
    backend, num_threads
        As for `fastrnn.LSTM`.
    given
        Fields of `Settings` that are not to be chosen; the others suit these.

    Raises
    ------
    TextError
        If the text has no token.
    TypeError, ValueError
        If `minutes` is not a positive number, or is given together with steps or epochs, or as for `Settings`.

    Examples
    --------
    >>> from fastrnn.training import dinosaur_text
    >>> settings = choose_settings(dinosaur_text(), num_threads=2, seed=1)
    >>> settings.windows, settings.num_layers, settings.seed
    ('lines', 1, 1)
    """
    check_instance("text", text, (str, Text), "a text")
    check_run(backend, num_threads)
    kind = inspect_text(text)
    cores = min(num_threads or get_num_threads(), MOST_CORES)
    if minutes is None:
        return _follow(kind, 60 * MINUTES * cores * CORE, given)
    minutes = check_number("minutes", minutes, "a positive number of minutes", lambda number: 0 < number < math.inf)
    for name in ("steps", "epochs"):
        if given.get(name) is not None:
            raise ValueError(f"minutes is {minutes:g} and {name} is {given[name]}; expected one of them")
    given = {**given, "minutes": minutes}
    settings = _follow(kind, 60 * minutes * cores * CORE, given)
    vocabulary_size = len(build_tokenizer(settings, text))
    for _ in range(2):  # again where cores of another speed want a model of another size
        shape = settings.num_layers, settings.hidden_size
        seconds = _time_step(settings, _length(kind, settings), vocabulary_size, backend, num_threads)
        settings = _follow(kind, 60 * minutes * _work(kind, settings) / seconds, given)
        if shape == (settings.num_layers, settings.hidden_size):
            break
    return settings


def _follow(kind: TextKind, flops: float, given: Mapping[str, Any]) -> Settings:
    """The rule: settings from the size and kind of a text, and the flops that there are to train on it.

    Bits per held-out character, drawn by seed 0, that made it; options are those of `fastrnn train`.

    - Vectors: names of dinosaurs (19 KB) with 192 units and dropout 0.5, on the characters' vectors too, 2.30 to 2.31.
      One-hot, 128 units and dropout 0.5 lead to 2.41, 192 and 0.6 to 2.41, 256 and 0.7 to 2.39; one stream of 128 units
      without dropout to 2.55, and then to more and more.
      Plays (1.1 MB), two layers of 256, after 200 and 600 steps 2.63 and 2.26; one-hot after 362 and 724 2.65 and 2.27.
    - Units: names with 128 and dropout 0.3 2.34. 340 n^0.7 weights for n characters are 192 units there, and 256 for
      94 KB. Where time is short, it is as many weights as the time trains on six characters each.
    - Layers: plays, one-hot, after 46 and 53 s of a core, two of 256 units 2.62, one of 512 2.73.
    - Rate: plays, two layers, after 550 steps at 0.004 2.65, after 383 at 0.006 2.62. It falls with the units' root.
    - Dropout grows by 0.15 with each doubling of the readings: 0.5 from thirty on, 0.15 to 0.2 for plays.
    - Thirty readings: of names, the best evaluation came at step 900 in runs of 1,150 to 1,500, after 21 readings.
    - Rows: 16 or 32 took the same time for a character and led to the same loss after as many.
    - Evaluations are twelve in a run, or every 50 steps where it is short; a quarter of the steps without a better one
      ends it.
    """
    chosen: dict[str, Any] = {"windows": "lines" if kind.is_list else "continuous", "split": "drawn", "embedding": True}
    settings = Settings(**chosen | dict(given))  # with what is given, which this checks
    tokens = _tokens(kind, settings)

    most = min(340 * tokens**0.7, math.sqrt(flops / 35))  # weights
    fitting = [shape for shape in LAYERS_AND_UNITS if _weights(settings, *shape) <= most]
    chosen["num_layers"], chosen["hidden_size"] = max(fitting or LAYERS_AND_UNITS[:1])
    if settings.windows == "lines":
        chosen["seq_length"], chosen["batch_size"] = 256, min(max(kind.lines // 40, 1), 32)
    else:
        chosen["seq_length"] = length = min(max(tokens // 80, 8), 64)
        chosen["batch_size"] = min(max(tokens // (16 * length), 4), 32)
    settings = Settings(**chosen | dict(given))

    reading = tokens / (settings.batch_size * _length(kind, settings))  # steps
    total = min(flops / _work(kind, settings), 30 * reading) if settings.epochs is None else settings.epochs * reading
    chosen["steps"] = total = given.get("steps", min(max(round(total), 1), LARGEST))
    readings = total / reading
    chosen["dropout"] = min(max(round(3 * math.log2(readings / 3.2)) / 20, 0.0), 0.5)
    chosen["learning_rate"] = OTHER_RATES.get(settings.optimizer, round(0.096 / math.sqrt(settings.hidden_size), 4))
    chosen["schedule"], chosen["warmup"] = "cosine", min(100, total // 20)
    chosen["evaluate_every"] = every = max(total // 12 if total > 2000 else 50, 1)
    chosen["patience"] = max(5, total // (4 * every))
    return Settings(**chosen | dict(given))


def _tokens(kind: TextKind, settings: Settings) -> int:
    """About how many tokens there are to train on; a word of English has 6 characters with its blank."""
    characters = kind.characters * (1 - settings.held_out)
    return max(1, round(characters / (6 if settings.level == "word" else 1)))


def _length(kind: TextKind, settings: Settings) -> float:
    """How many steps of a row of a batch are no padding, on average."""
    if settings.windows == "continuous":
        return settings.seq_length
    return min(max(kind.length, 1.0) / (6 if settings.level == "word" else 1) + 1, settings.seq_length)


def _weights(settings: Settings, layers: int, units: int) -> int:
    """About how many weights a token is multiplied with: without an embedding, it picks a column of the first ones."""
    inputs = 2 * layers - (settings.level == "char" and not settings.embedding)
    gates = GATES.get(str(settings.cell), 4)
    return gates * inputs * units**2 + 64 * units


def _work(kind: TextKind, settings: Settings) -> float:
    """The flops of a step, with its share of the evaluations: forward 2 a weight, backward 4."""
    tokens = settings.batch_size * _length(kind, settings)
    return 6.3 * tokens * _weights(settings, settings.num_layers, settings.hidden_size)


def _time_step(
    settings: Settings, length: float, vocabulary_size: int, backend: str | None, num_threads: int | None
) -> float:
    """Return the seconds of a step of training, the median of some after the first one."""
    model = build_model(settings, vocabulary_size, backend=backend, num_threads=num_threads)
    optimizer = OPTIMIZERS[settings.optimizer](model.parameters, settings.learning_rate)
    shape = max(1, round(length)), settings.batch_size
    tokens = np.random.default_rng(settings.seed).integers(vocabulary_size, size=shape)
    seconds: list[float] = []
    while len(seconds) < 4 or (len(seconds) < 32 and sum(seconds) < 1):
        started = time.perf_counter()
        _, _, grads = model.gradients(tokens, tokens)
        clip_global_norm(grads, settings.clip)
        optimizer.step(grads)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))
