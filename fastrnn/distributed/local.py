"""Processes on this machine, on the standard library alone: each has a socket to the first one, which started them."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from fastrnn import threads
from fastrnn.checks import Array
from fastrnn.distributed.group import WorkerError, serve

__all__ = ["Local", "limited_threads", "share_of_threads", "start", "work"]

VARIABLE = "FASTRNN_WORKER"  # what a process that `start` started finds in its environment: port, rank, size, token
PATIENCE = 10.0  # seconds for a process to end that has nothing left to do
LONGEST = 300  # characters that are quoted of what a process has said


class Child(subprocess.Popen[bytes]):
    """A process that helps this one."""

    def __init__(self, rank: int, size: int, port: int, token: str) -> None:
        self.rank = rank
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - `Local.close` closes it
        code = "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); import fastrnn.distributed.local as local"
        super().__init__(
            [sys.executable, "-c", f"{code}; sys.exit(local.work())", json.dumps(sys.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            env={
                **os.environ,
                VARIABLE: f"{port} {rank} {size} {token}",
                "OMP_NUM_THREADS": f"{share_of_threads(size)}",  # of NumPy's products
            },
            start_new_session=True,  # Ctrl-C is for the first process alone, which tells the others
        )

    def describe_end(self) -> str:
        """Say how it has ended, which must be soon."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(PATIENCE)
        how = "cannot be reached"
        if self.returncode is not None:
            how = f"has ended with status {self.returncode}"
            if self.returncode < 0:
                how = f"was killed by signal {-self.returncode}"
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return f"worker {self.rank} {how}{f': {lines[-1][:LONGEST]}' if lines else ''}"


class Local:
    """The group of these processes; sums are made by the first one, in the order of the ranks."""

    ordered = overlaps = True

    def __init__(self, rank: int, sockets: Sequence[socket.socket], size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._sockets = list(sockets)  # the first process's to the others, in their order, or another's to the first
        self._children: list[Child] = []
        self._scratch = np.empty(0, np.uint8)

    def allreduce(self, array: Array) -> None:
        """Replace a contiguous array by the sum of all processes'."""
        if self.rank:
            self._send(0, array)
            self._receive(0, array)
            return
        if self._scratch.nbytes < array.nbytes:
            self._scratch = np.empty(array.nbytes, np.uint8)
        part = self._scratch[: array.nbytes].view(array.dtype).reshape(array.shape)
        for k in range(len(self._sockets)):
            self._receive(k, part)
            array += part
        for k in range(len(self._sockets)):
            self._send(k, array)

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Replace a contiguous array by that of the process `root`."""
        if self.rank:
            self._send(0, array) if self.rank == root else self._receive(0, array)
            return
        if root:
            self._receive(root - 1, array)
        for k in range(len(self._sockets)):
            if k != root - 1:
                self._send(k, array)

    def _send(self, k: int, array: Array) -> None:
        try:
            self._sockets[k].sendall(_bytes(array))
        except OSError as error:
            raise self._lost(k) from error

    def _receive(self, k: int, array: Array) -> None:
        left = _bytes(array)
        try:
            while left:
                count = self._sockets[k].recv_into(left)
                if not count:
                    raise ConnectionError("it is closed")
                left = left[count:]
        except OSError as error:
            raise self._lost(k) from error

    def _lost(self, k: int) -> WorkerError:
        return WorkerError("the first process has ended" if self.rank else self._children[k].describe_end())

    def close(self) -> None:
        """End what was started: what waits for another process learns so that there is nothing more to come."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # which wakes a thread that waits there
            each.close()
        for child in self._children:
            with child.said, suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
            if child.poll() is None:
                child.kill()
                child.wait()


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@contextmanager
def start(workers: int) -> Iterator[Local]:
    """Start `workers - 1` processes that `serve`, and yield their group, this one being the first; then end them.

    Raises
    ------
    WorkerError
        If one does not start.
    """
    token = secrets.token_hex(16)
    group = Local(0, [], workers)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        try:
            for rank in range(1, workers):
                group._children.append(Child(rank, workers, port, token))
            found = _accept(server, token, group._children)
            group._sockets = [found[rank] for rank in range(1, workers)]
            yield group
        finally:
            group.close()


@contextmanager
def limited_threads(processes: int) -> Iterator[None]:
    """Let calls of this process use its share of the threads where so many run on this machine."""
    before = threads._num_threads
    threads.set_num_threads(share_of_threads(processes))
    try:
        yield
    finally:
        threads.set_num_threads(before)


def share_of_threads(processes: int) -> int:
    """Return how many threads each of some processes on this machine may use."""
    return max(1, threads.get_num_threads() // processes)


def _accept(server: socket.socket, token: str, children: Sequence[Child]) -> dict[int, socket.socket]:
    """Return the sockets of all children, by rank."""
    found: dict[int, socket.socket] = {}
    server.settimeout(0.1)
    while len(found) < len(children):
        with suppress(TimeoutError):
            each, _ = server.accept()
            each.settimeout(PATIENCE)
            rank, _, theirs = _line(each).partition(" ")
            if hmac.compare_digest(theirs.encode(), token.encode()):
                _prepare(each)
                found[int(rank)] = each
            else:  # somebody else
                each.close()
        for child in children:
            if child.rank not in found and child.poll() is not None:
                raise WorkerError(child.describe_end())
    return found


def _line(each: socket.socket) -> str:
    """What comes first from a socket, up to the end of the line."""
    data = b""
    with suppress(OSError):
        while not data.endswith(b"\n") and len(data) < 100 and (byte := each.recv(1)):
            data += byte
    return data.decode("ascii", "replace").strip()


def _prepare(each: socket.socket) -> None:
    each.settimeout(None)
    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def join() -> Local:
    """Return the group that this process was started for."""
    port, rank, size, token = os.environ.pop(VARIABLE).split()
    try:
        each = socket.create_connection(("127.0.0.1", int(port)))
        each.sendall(f"{rank} {token}\n".encode())
    except OSError as error:
        raise WorkerError(f"the first process has ended: {error}") from error
    _prepare(each)
    return Local(int(rank), [each], int(size))


def work() -> Any:
    """What a started process does: what the first one says. Return its exit status, or what is wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(join())
    except Exception as error:  # whatever it is, the first process tells it
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return 0
