"""Cells that are written in the language, through `fastrnn.Recurrent`, on every backend that runs programs."""

import pickle

import numpy as np
import pytest
import torch
from problems import assert_close_arrays

import fastrnn
from fastrnn.cells import LIBRARY, sigmoid, tanh

BACKENDS = ["numpy", "cython"]
SHAPES = [(1, 1, 1, 1), (3, 1, 5, 7), (5, 5, 1, 1), (2, 3, 4, 33), (9, 20, 10, 70), (30, 6, 3, 17), (12, 2, 16, 130)]
