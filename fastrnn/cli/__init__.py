"""The command `fastrnn`: train and sample language models, and tell what runs here."""

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command and exit with its status: 0, or 2 after an error of the user's, told in one line."""
    missing = [name for name in ("click", "rich", "safetensors") if find_spec(name) is None]
    if missing:
        sys.exit(_complain(f"the command needs {', '.join(missing)}: pip install {' '.join(missing)}"))
    try:
        from fastrnn.cli.app import run

        status = run(_complain)
    except KeyboardInterrupt:  # while it starts or ends; in between, click takes it
        status = 130
    sys.exit(status)


def _complain(message: str) -> int:
    line = message.replace("\n", " ").encode(errors="backslashreplace").decode()  # a file may hold half a character
    print("fastrnn:", line, file=sys.stderr)
    return 2
