"""The examples in the docstrings of fastrnn.training."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import fastrnn.training

MODULES = [module.name for module in pkgutil.iter_modules(fastrnn.training.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(f"fastrnn.training.{name}")).failed == 0
