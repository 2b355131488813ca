"""A pool of killable processes that judge answers, usable from any thread.

Invariant: judging an answer takes at most its time limit, plus the start of a process if none is idle. A
process that overruns or dies is replaced, and no other answer is affected. Processes end with the pool, at
the latest at exit. This file does not know what is judged, or how (see `worker.py`).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

NUM_WORKERS = 2
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Ruling:
    """A grading process's decision about an answer."""

    is_correct: bool
    failure: str = ""
    """Why the answer could not be judged; empty if it was judged."""


class GradingWorker:
    """A process that judges answers for one grader. Raises ValueError if the grader cannot be loaded."""

    def __init__(self, grader: str) -> None:
        path = [entry for entry in sys.path if entry]
        if grader != "math":  # only a user's function may be imported from the working directory
            path.insert(0, os.getcwd())  # noqa: PTH109 a string is wanted
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "forkpoint.grading.worker", grader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        ready, _ = self._reply_within(START_TIMEOUT_S)
        failure = "its process ended before it was ready" if ready is None else ready["failure"]
        if failure is not None:
            self.close()
            raise ValueError(f"grader {grader!r} cannot be loaded: {failure}")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, reference: str, prediction: str, timeout_s: float) -> Ruling:
        """Judge one answer; the worker may be dead afterwards."""
        request = {"reference": reference, "prediction": prediction, "timeout_s": timeout_s}
        reply, has_overrun = self._reply_within(timeout_s, json.dumps(request).encode() + b"\n")
        if reply is None:
            return Ruling(
                False,
                f"over the time limit of {timeout_s:g} s" if has_overrun else "the grading process died",
            )
        return Ruling(reply.get("is_correct", False), reply.get("failure", ""))

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # a request that came too late has unsent bytes
                if pipe:
                    pipe.close()

    def _reply_within(self, timeout_s: float, request: bytes = b"") -> tuple[dict[str, Any] | None, bool]:
        """Return the next line, None if the process ended first, and whether it overran and was killed."""
        assert self._process.stdin and self._process.stdout, "a worker has pipes"
        overrun = threading.Event()

        def end() -> None:
            overrun.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:  # it died during the write
            line = b""
        finally:
            timer.cancel()
            timer.join()
        is_whole = line.endswith(b"\n")
        if overrun.is_set() or not is_whole:
            self._process.kill()
            self._process.wait()  # a process that is still ending counts as alive
        return (json.loads(line) if is_whole else None), overrun.is_set()


class GradingPool:
    """At most `num_workers` processes for one grader; they start when needed and are kept."""

    def __init__(self, grader: str, num_workers: int = NUM_WORKERS) -> None:
        self.grader = grader
        self.num_workers = num_workers
        self._free = threading.BoundedSemaphore(num_workers)
        self._lock = threading.Lock()
        self._idle: list[GradingWorker] = []
        self._all: set[GradingWorker] = set()

    def ask(self, reference: str, prediction: str, timeout_s: float) -> Ruling:
        """Judge one answer in an idle process; waits while all processes are busy."""
        with self._free:
            worker = self._take()
            ruling = worker.ask(reference, prediction, timeout_s)
            with self._lock:
                if worker.is_alive and worker in self._all:
                    self._idle.append(worker)
                    return ruling
                self._all.discard(worker)
            worker.close()
            return ruling

    def ask_all(self, pairs: Sequence[tuple[str, str]], timeout_s: float) -> list[Ruling]:
        """Return one ruling per (reference, prediction), in order."""
        if len(pairs) < 2:
            return [self.ask(pair[0], pair[1], timeout_s) for pair in pairs]
        threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="grading")
        try:
            return list(threads.map(lambda pair: self.ask(pair[0], pair[1], timeout_s), pairs))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End all processes; answers that are being judged come back as failures."""
        with self._lock:
            workers, self._idle = list(self._all), []
            self._all.clear()
        for worker in workers:
            worker.close()

    def _take(self) -> GradingWorker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive:
                    return worker
                self._all.discard(worker)
        worker = GradingWorker(self.grader)
        with self._lock:
            self._all.add(worker)
        return worker


_pools: dict[str, GradingPool] = {}
_pools_lock = threading.Lock()


def shared_pool(grader: str) -> GradingPool:
    """Return the process-wide pool for a grader."""
    with _pools_lock:
        if grader not in _pools:
            _pools[grader] = GradingPool(grader)
        return _pools[grader]


@atexit.register
def close_shared_pools() -> None:
    """End all processes of the shared pools; the next answer starts new ones."""
    with _pools_lock:
        pools = list(_pools.values())
        _pools.clear()
    for pool in pools:
        pool.close()


def _forget_shared_pools() -> None:
    """Drop the pools in a forked process, which has copies of its parent's pipes and must not use them."""
    global _pools, _pools_lock
    _pools, _pools_lock = {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_shared_pools)
