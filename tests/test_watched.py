"""A test's process is ended for what it computes, or waits for in vain, and not for what others do meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from watched import run_watched

psutil = pytest.importorskip("psutil", reason="without psutil the clock counts")


def test_output_and_status_are_those_of_the_command() -> None:
    code = "import sys; sys.stdout.buffer.write(b'\\xff y\\n'); print('e', file=sys.stderr); sys.exit(3)"
    done = run_watched([sys.executable, "-c", code], 60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "\\xff y\n", "e\n")


def test_a_process_that_others_keep_from_computing_ends_in_its_own_time() -> None:
    code = "import time\nfor _ in range(100): sum(range(50_000)); time.sleep(0.03)\nprint('done')"
    started = time.monotonic()
    assert run_watched([sys.executable, "-c", code], 2).stdout == "done\n"
    assert time.monotonic() - started > 2


@pytest.mark.parametrize("what", ["import time; time.sleep(600)", "while True: pass"], ids=["waits", "computes"])
def test_what_waits_or_computes_for_ever_is_ended_with_its_children(what: str) -> None:
    code = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {what!r}])"
    code += "; print(c.pid, flush=True); c.wait()"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_watched([sys.executable, "-c", code], 1)
    child = int(caught.value.output)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
