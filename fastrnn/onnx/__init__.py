"""ONNX files on fastrnn's kernels, and fastrnn's modules as ONNX files; install the extra ``onnx``.

`load` gives the recurrent nodes of a file as modules, `InferenceSession` runs a file, its recurrent nodes here and the
rest in onnxruntime, and `export` writes a module or model.
"""

from fastrnn.onnx.exporting import export
from fastrnn.onnx.loading import load
from fastrnn.onnx.node import Node
from fastrnn.onnx.session import InferenceSession

__all__ = ["InferenceSession", "Node", "export", "load"]
