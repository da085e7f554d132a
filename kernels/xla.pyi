from collections.abc import Callable
from typing import Any

from fastrnn.parameters import Array

calls: dict[str, Callable[[list[Array], list[Array], dict[str, str]], None]]
handler: Any
