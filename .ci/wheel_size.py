"""Fail where a wheel of a folder has 3 MB or more: `python .ci/wheel_size.py FOLDER`."""

import sys
from pathlib import Path

LIMIT = 3_000_000

sizes = {path.name: path.stat().st_size for path in Path(sys.argv[1]).glob("*.whl")}
for name, size in sizes.items():
    print(f"{name}: {size / 1e6:.2f} MB")
if not sizes or max(sizes.values()) >= LIMIT:
    sys.exit(f"expected one wheel or more, each below {LIMIT / 1e6:.0f} MB")
