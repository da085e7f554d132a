"""Print the oldest versions that pyproject.toml admits of what fastrnn needs, and of some of its extras, for pip.

`python .ci/oldest.py [extra ...]`
"""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:
    import tomli as tomllib


def oldest(extras: list[str]) -> list[str]:
    """The requirements, each pinned to its lower bound."""
    project = tomllib.loads(Path(__file__).resolve().parents[1].joinpath("pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    pins = []
    for requirement in map(Requirement, needed):
        (bound,) = (s.version for s in requirement.specifier if s.operator in (">=", "=="))
        pins.append(f"{requirement.name}=={bound}")
    return pins


if __name__ == "__main__":
    print("\n".join(oldest(sys.argv[1:])))
