from collections.abc import Callable, Sequence
from typing import Any

from fastrnn.cells import Cell
from fastrnn.parameters import Array

_Function = Callable[[list[Array], list[Array]], None]

calls: dict[str, Callable[[str], _Function]]
made: dict[bytes, _Function]
handler: Any

class Inference:
    def __init__(
        self,
        backend: Any,
        cell: Cell,
        states: int,
        places: Sequence[int],
        num_threads: Callable[[], int],
    ) -> None: ...
    def __call__(self, arguments: list[Array], results: list[Array]) -> None: ...
