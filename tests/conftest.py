"""What every test shares: what must be installed, and which backends there are."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
REQUIRE_ALL = bool(os.environ.get("CI") or os.environ.get("FASTRNN_REQUIRE_ALL"))
JAX_X64 = os.environ.get("JAX_ENABLE_X64", "").lower() in ("1", "true", "t", "yes", "y", "on")  # of the whole process

os.environ.setdefault("FASTRNN_OVERSUBSCRIBE", "1")  # threads are tried on however few CPUs

sys.path.insert(0, str(ROOT / "tests"))  # import-mode importlib leaves the helpers next to the tests out of reach
pytest.register_assert_rewrite("calls", "problems", "tolerances")


def pytest_configure(config: pytest.Config) -> None:
    """Stop where the tests would not test what is installed."""
    if not any(importlib.metadata.distributions(name="fastrnn")):
        raise pytest.UsageError("fastrnn is not installed; run: pip install -e .[test]")
    import fastrnn
    from fastrnn import backends

    if Path(fastrnn.__file__).parent == ROOT / "fastrnn" and importlib.util.find_spec("fastrnn.kernels") is None:
        raise pytest.UsageError(
            f"the source tree {ROOT} hides the installed fastrnn, and has no kernels: "
            "run `pytest` instead of `python -m pytest`, or pip install -e ."
        )
    with warnings.catch_warnings():  # that there are no kernels: tests are skipped for it, but do not fail
        warnings.simplefilter("ignore", RuntimeWarning)
        backends.resolve()


@pytest.fixture(autouse=True)
def _precision_of_jax() -> Iterator[None]:
    """What a test, or a benchmark that it runs, asks of JAX for the whole process is asked for that test alone.

    What the environment asks for holds: the tests of fastrnn.keras have doubles so, on JAX.
    """
    yield
    if "jax" in sys.modules and sys.modules["jax"].config.jax_enable_x64 != JAX_X64:
        sys.modules["jax"].config.update("jax_enable_x64", JAX_X64)


Require = Callable[[bool, str], None]


@pytest.fixture(scope="session")
def require() -> Require:
    """Skip the test where something is not available, or fail where CI or FASTRNN_REQUIRE_ALL says it must be."""

    def check(available: bool, why: str) -> None:
        if not available:
            (pytest.fail if REQUIRE_ALL else pytest.skip)(why)

    return check


@pytest.fixture
def backend(request: pytest.FixtureRequest, require: Require) -> str:
    """The name of a backend that runs here; parametrize it indirectly."""
    from fastrnn.backends import info

    (status,) = (status for status in info().backends if status.name == request.param)
    require(status.runs, status.detail)
    return status.name


@pytest.fixture(scope="session")
def torch(require: Require) -> ModuleType:
    """PyTorch, which the tests compare with."""
    require(importlib.util.find_spec("torch") is not None, "torch is not installed")
    return importlib.import_module("torch")


@pytest.fixture(scope="session")
def keras(require: Require, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Keras in float64 on the CPU, on torch or what FASTRNN_TEST_KERAS says, whatever the user's settings are.

    It reads them when it is imported: a process has one backend.
    """
    require(importlib.util.find_spec("keras") is not None, "keras is not installed")
    backend = os.environ.get("FASTRNN_TEST_KERAS", "torch")
    if backend == "torch":
        request.getfixturevalue("torch")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        environment.setenv("KERAS_BACKEND", backend)
        environment.setenv("KERAS_TORCH_DEVICE", "cpu")
        keras = importlib.import_module("keras")
    assert keras.config.backend() == backend
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # which another test that made layers has fixed
    # Where types meet, Keras takes float64 for float32, as JAX does by default: even float64 products were rounded.
    importlib.import_module("keras.src.backend.common.dtypes").BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    return keras


@pytest.fixture(scope="session")
def sklearn(require: Require) -> ModuleType:
    """scikit-learn, and the frames that its users have."""
    missing = [name for name in ("sklearn", "pandas", "polars") if importlib.util.find_spec(name) is None]
    require(not missing, f"{', '.join(missing)} not installed")
    return importlib.import_module("sklearn")


@pytest.fixture
def safetensors(require: Require) -> None:
    """The format of files, which NumPy alone does not bring."""
    require(importlib.util.find_spec("safetensors") is not None, "safetensors is not installed")


@pytest.fixture
def restored() -> Iterator[None]:
    """Put the global choices of backend and threads back afterwards."""
    import fastrnn

    yield
    fastrnn.use_backend(None)
    fastrnn.set_num_threads(None)
