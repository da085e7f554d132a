"""Which backend is used, and what is said when one cannot be."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from problems import run_python

import fastrnn
from fastrnn import backends
from fastrnn.errors import BackendError, FastrnnError

pytestmark = pytest.mark.usefixtures("restored", "three_backends")


class Recorder(ModuleType):
    """A backend that runs the reference and counts its calls."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return backends.load("numpy").forward(*args, **kwargs)

    def describe(self) -> str:
        return f"a recorder called {self.__name__}"


@pytest.fixture
def three_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of backends that need nothing compiled: first, second, absent, unfit and numpy."""
    unfit = Recorder("recorder_unfit")
    unfit.why_not_runnable = lambda: "this CPU has no vectors"
    modules = [Recorder("recorder_first"), Recorder("recorder_second"), unfit]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    registry = {
        "absent": "fastrnn.no_such_module",
        "unfit": "recorder_unfit",
        "first": "recorder_first",
        "second": "recorder_second",
        "numpy": "fastrnn.reference",
    }
    monkeypatch.setattr(backends, "BACKENDS", registry)
    monkeypatch.setattr(backends, "_loaded", {})
    monkeypatch.delenv("FASTRNN_BACKEND", raising=False)


def used(**options: str) -> str:
    """The name of the backend that a module's call really runs on."""
    recorders = {name: sys.modules[f"recorder_{name}"] for name in ("first", "second")}
    before = {name: module.calls for name, module in recorders.items()}
    fastrnn.GRU(2, 3, **options)(np.zeros((1, 1, 2), np.float32))
    return next((name for name, module in recorders.items() if module.calls > before[name]), "numpy")


def test_automatic_choice_is_the_first_that_runs() -> None:
    assert used() == "first"
    assert backends.info().used == "first"
    assert backends.info().why == "the first that runs here"


def test_use_backend_is_global_until_changed() -> None:
    fastrnn.use_backend("second")
    assert used() == "second"
    assert backends.info().why == "chosen by use_backend"
    fastrnn.use_backend("numpy")
    assert used() == "numpy"
    fastrnn.use_backend(None)
    assert used() == "first"


def test_use_backend_as_context_manager() -> None:
    with fastrnn.use_backend("second"):
        assert used() == "second"
        with fastrnn.use_backend("numpy"):
            assert used() == "numpy"
            with fastrnn.use_backend(None):
                assert used() == "first"
            assert used() == "numpy"
        assert used() == "second"
    assert used() == "first"


def test_use_backend_is_undone_by_an_exception() -> None:
    with pytest.raises(KeyError), fastrnn.use_backend("second"):
        raise KeyError
    assert used() == "first"


@pytest.mark.parametrize("name", ["absent", "unfit", "unknown"])
def test_failed_choice_changes_nothing(name: str) -> None:
    fastrnn.use_backend("second")
    with pytest.raises(BackendError):
        fastrnn.use_backend(name)
    assert used() == "second"


def test_environment_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_BACKEND", "second")
    assert used() == "second"
    assert backends.info().why == "chosen by FASTRNN_BACKEND"
    with fastrnn.use_backend("numpy"):
        assert used() == "numpy"
    assert used(backend="first") == "first"


def test_module_goes_before_every_other_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_BACKEND", "first")
    with fastrnn.use_backend("second"):
        assert used(backend="numpy") == "numpy"
        assert used() == "second"


def test_backward_runs_where_forward_ran() -> None:
    module = fastrnn.GRU(2, 3)
    with fastrnn.use_backend("numpy"):
        y, _, tape = module.forward(np.zeros((1, 1, 2), np.float32))
    dx, _, _ = module.backward(tape, np.ones_like(y))
    assert dx.shape == (1, 1, 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unknown", "backend is 'unknown'; expected one of absent, unfit, first, second, numpy"),
        ("absent", "backend 'absent' is not built: No module named 'fastrnn.no_such_module'"),
        ("unfit", "backend 'unfit' cannot run here: this CPU has no vectors"),
    ],
)
def test_explicit_choice_never_falls_back(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    for _ in range(2):  # the second failure comes from the cache
        with pytest.raises(BackendError) as raised:
            backends.load(name)
        assert str(raised.value) == text
        assert isinstance(raised.value, FastrnnError)
    for choose in (lambda: fastrnn.use_backend(name), lambda: fastrnn.LSTM(2, 3, backend=name)):
        with pytest.raises(BackendError, match=text):
            choose()
    monkeypatch.setenv("FASTRNN_BACKEND", name)
    for call in (used, backends.info):
        with pytest.raises(BackendError, match=text):
            call()


def test_backend_that_is_no_name() -> None:
    with pytest.raises(BackendError, match="backend is 3; expected one of"):
        fastrnn.use_backend(3)


def test_automatic_choice_without_the_kernels_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", {"cython": "fastrnn.no_such_module", "numpy": "fastrnn.reference"})
    asked = fastrnn.GRU(2, 3, backend="numpy")
    asked(np.zeros((1, 1, 2), np.float32))
    with fastrnn.use_backend("numpy"):
        fastrnn.GRU(2, 3)(np.zeros((1, 1, 2), np.float32))
    assert backends.info().used == "numpy"  # which says it itself

    message = (
        "fastrnn runs on NumPy, much slower than on its C kernels: backend 'cython' is not built: "
        "No module named 'fastrnn.no_such_module' (if NumPy is what you want, FASTRNN_BACKEND=numpy or "
        "fastrnn.use_backend('numpy') says so)"
    )
    with pytest.warns(RuntimeWarning, match=re.escape(message)) as caught:
        fastrnn.GRU(2, 3)(np.zeros((1, 1, 2), np.float32))
    assert [warning.filename for warning in caught] == [__file__]
    fastrnn.GRU(2, 3)(np.zeros((1, 1, 2), np.float32))


def test_numba_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "fastrnn.kernels.numba_sequence", raising=False)
    monkeypatch.setitem(backends.BACKENDS, "numba", "fastrnn.kernels.numba_sequence")
    with pytest.raises(BackendError, match=r"'numba' is not built: numba is not installed: pip install numba"):
        backends.load("numba")


def test_info_tells_of_every_backend() -> None:
    info = fastrnn.info()
    assert [(status.name, status.runs) for status in info.backends] == [
        ("absent", False),
        ("unfit", False),
        ("first", True),
        ("second", True),
        ("numpy", True),
    ]
    lines = str(info).splitlines()
    assert lines[0].startswith(f"fastrnn {fastrnn.__version__}, Python 3.")
    assert f"NumPy {np.__version__}" in lines[0]
    assert lines[1].startswith("backend: first (the first that runs here), up to ")
    assert lines[2:] == [
        "  absent  does not run: backend 'absent' is not built: No module named 'fastrnn.no_such_module'",
        "  unfit   does not run: backend 'unfit' cannot run here: this CPU has no vectors",
        "  first   runs: a recorder called recorder_first",
        "  second  runs: a recorder called recorder_second",
        "  numpy   runs: the reference, plain NumPy",
        f"caches: {info.caches}",
    ]


def test_environment_variable_in_a_new_process(tmp_path: Path) -> None:
    code = "import fastrnn; info = fastrnn.info(); print(info.used, info.why, sep=': ')"
    chosen = run_python(code, tmp_path, FASTRNN_BACKEND="numpy")
    assert (chosen.stdout, chosen.stderr) == ("numpy: chosen by FASTRNN_BACKEND\n", "")
    wrong = run_python("import fastrnn; fastrnn.info()", tmp_path, FASTRNN_BACKEND="cuda")
    assert wrong.returncode == 1
    last = wrong.stderr.splitlines()[-1]
    assert last == "fastrnn.errors.BackendError: backend is 'cuda'; expected one of cython, numba, numpy"


def test_import_loads_nothing_slow(tmp_path: Path) -> None:
    code = "import sys, fastrnn; print({'numba', 'torch', 'matplotlib', 'click', 'rich'} & set(sys.modules))"
    assert run_python(code, tmp_path).stdout == "set()\n"


def test_kernels_is_no_top_level_package(tmp_path: Path) -> None:
    result = run_python("import kernels", tmp_path)
    assert result.returncode == 1
    assert "ModuleNotFoundError: No module named 'kernels'" in result.stderr
    assert importlib.util.find_spec("fastrnn.kernels") is not None


def test_numba_that_may_not_compile_does_not_run(tmp_path: Path, require) -> None:
    require(importlib.util.find_spec("numba") is not None, "numba is not installed")
    code = "import fastrnn; (numba,) = (b for b in fastrnn.info().backends if b.name == 'numba'); print(numba)"
    said = run_python(code, tmp_path, NUMBA_DISABLE_JIT="1").stdout
    assert "runs=False" in said
    assert "NUMBA_DISABLE_JIT is set" in said


def test_numba_optimizes_its_users_code_as_before(require) -> None:
    """Helpers are compiled with a level of optimization of their own, also those that do not compile."""
    require(importlib.util.find_spec("numba") is not None, "numba is not installed")
    import numba

    from fastrnn.kernels.numba_options import helper

    before = numba.config.OPT
    twice, wrong = helper(lambda a: 2 * a), helper(lambda a: a.nothing)
    assert numba.njit(lambda a: twice(a) + 1)(1) == 3
    assert numba.config.OPT is before
    with pytest.raises(numba.TypingError):
        numba.njit(lambda a: wrong(a))(1)
    assert numba.config.OPT is before
