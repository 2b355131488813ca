"""The executor that does the work on many workers and machines, chunk by chunk, with Ray.

    with RayExecutor(num_workers=16, gpus_per_worker=1) as executor:
        executor.execute(run, work)

Every worker is a Ray actor with its own copy of the work. The work goes to the object store once per pass, and to a worker
once; from then on a worker is sent the bounds of one chunk at a time, and sends its rows back. This process alone writes
to the run, and journals the chunks in their order.

Invariant: where a row depends on its chunk alone, and not on the process and the machine, the journal is byte for byte that
of a `LocalExecutor` with the same chunk size, whatever dies on the way, this process included.
This file does not bring the package, the model or the data to other machines, and does not spread one model over several
workers. It needs Ray; it is the one file that does.
"""

from __future__ import annotations

import logging
import os
import socket
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any

from forkpoint.errors import RunError
from forkpoint.runs.local import LocalExecutor
from forkpoint.runs.parcel import Failure, Rows, performed, unpacked
from forkpoint.runs.run import Run
from forkpoint.runs.work import Tally, Work
from forkpoint.runs.worker import Crew, Death, Task, execute_with_workers

try:
    import ray
    from ray.exceptions import RayActorError, RayError
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"work on several machines needs Ray ({missing}); pip install 'forkpoint[ray]'"
    ) from missing

NUM_ATTEMPTS = 3
"""At a chunk whose worker dies. One more than among processes of one machine: machines also leave for reasons of their own."""
PATIENCE_S = 60.0
"""Without a worker, before that is looked into."""
CONNECT_TIMEOUT_S = 10.0
START_HINT = (
    "forkpoint, and what it needs, must be installed on every machine, and a worker needs room for the model"
)
MESSAGE_LENGTH = 400
"""Of what Ray has to say about a death, at most; it goes on with advice."""


@dataclass(frozen=True, eq=False)
class RayExecutor:
    """Does a run's work in Ray actors, which stay for the next work until `close`; a context manager.

    A worker that dies, or whose machine does, is replaced, and its chunk is given to the next free worker, three times in
    all; then it is recorded as failed. The rows of a chunk wait for the chunks before it, so a stop costs up to
    `num_workers` * 4 chunks. Workers end with this process, however it ends.
    A policy from `load_policy` is loaded by every worker from the same path or hub id, and kept for later works with the
    same policy. A work that cannot be pickled, or that holds an open run or a torch module, is done in this process, with a
    warning unless the work's `stays_here` says as much.
    Ray is started, or joined, by the first `execute` that has something to do, and left by `close`, unless the program was
    connected to it before.
    """

    num_workers: int = 2
    """Actors at most, over all machines."""
    gpus_per_worker: float = 0.0
    """GPUs that each worker sees, set aside for it; for a policy that is spread over several (tensor parallel) at least that
    many. A fraction, as in 0.5, has several workers share one; with 0 a worker sees none."""
    cpus_per_worker: int = 1
    """Cores set aside for each worker, and threads that torch uses there."""
    chunk_size: int = 32
    """Items per call of `perform`."""
    address: str | None = None
    """Of the cluster, as in 10.0.0.1:6379. Without one that of the environment's RAY_ADDRESS, or of the cluster that this
    machine belongs to; where there is none either, Ray is started on this machine alone, for this process."""
    progress: bool = True
    """Show on stderr how far the work is."""
    max_failed_chunks: int = 3
    """So many failed chunks in a row stop the pass: what fails then is hardly the items."""
    _workers: list[Worker] = field(default_factory=list, init=False, repr=False)
    _ray: ExitStack = field(default_factory=ExitStack, init=False, repr=False)
    """Ends what this executor has begun with Ray."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "cpus_per_worker", "chunk_size", "max_failed_chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; {getattr(self, name)} was given")
        if self.gpus_per_worker < 0 or (self.gpus_per_worker > 1 and self.gpus_per_worker % 1):
            raise ValueError(
                f"gpus_per_worker must be a whole number, or a fraction of one GPU; {self.gpus_per_worker} was given"
            )

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and Ray if it was started here; the next `execute` starts anew."""
        while self._workers:
            self._workers.pop().end()
        self._ray.close()

    def execute(self, run: Run, work: Work) -> Tally:
        """Do what is owed of `work` and append its rows to the journal of `run`; failures are treated as by `LocalExecutor`.

        ValueError where the cluster has no room for the workers, ConnectionError where there is no cluster at the address.
        RunError after `max_failed_chunks` failed chunks in a row, where the disk refuses, where a worker cannot load the
        work, and where workers do not stay alive until they have.
        """
        local = LocalExecutor(self.chunk_size, self.progress, self.max_failed_chunks)
        return execute_with_workers(run, work, local, self._outcomes, self.close)

    def _connect(self) -> None:
        """Join the cluster, or start one. ValueError where it has no room for the workers."""
        if not ray.is_initialized():
            _refuse_deaf(self.address or os.environ.get("RAY_ADDRESS", ""))
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(self.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            self._ray.callback(ray.shutdown)
        if not self._workers and (lack := self._lack_of_room(self.num_workers)):
            raise ValueError(lack)

    def _outcomes(self, parcel: bytes, chunks: Sequence[range]) -> Iterator[Rows | Failure]:
        """Have the chunks performed by actors, which keep the work for as long as they have no other."""
        self._connect()
        start = partial(Worker, self.cpus_per_worker, self.gpus_per_worker)
        crew = Crew(self._workers, self.num_workers, NUM_ATTEMPTS, start, self._ready, START_HINT)
        return crew.outcomes(ray.put(parcel), chunks)

    def _ready(self, workers: Sequence[Worker]) -> list[Worker]:
        """One that has done what it was asked to, or died; empty if that takes long."""
        asked = {worker.answer_ref: worker for worker in workers if not worker.is_free}
        ready, _ = ray.wait(list(asked), timeout=PATIENCE_S)
        if ready:
            return [asked[ready[0]]]
        if all(worker.task is None for worker in asked.values()):  # nothing is being done at all
            if lack := self._lack_of_room(1):
                raise RunError(f"{lack}; then run the same command again")
            warnings.warn(
                "no worker is ready: they load the work, or wait for room that others have on the Ray cluster",
                stacklevel=2,
            )
        return []

    def _lack_of_room(self, num_workers: int) -> str:
        """What to say where the machines of the cluster have no room for so many workers, whoever uses them now; else nothing."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        room = sum(_room(machine, self.cpus_per_worker, self.gpus_per_worker) for machine in machines)
        if room >= num_workers:
            return ""
        num_cpus, num_gpus = (sum(machine.get(name, 0) for machine in machines) for name in ("CPU", "GPU"))
        return (
            f"{self.num_workers} workers with {self.cpus_per_worker} CPUs and {self.gpus_per_worker:g} GPUs each were asked for; "
            f"the Ray cluster has room for {room} ({num_cpus:g} CPUs and {num_gpus:g} GPUs on {len(machines)} machines): "
            "ask for fewer or smaller ones, or add machines"
        )


class Worker:
    """One actor, as seen by the process that gives it chunks."""

    def __init__(self, num_cpus: int, num_gpus: float) -> None:
        # a worker that died has forgotten the work, so Ray is not to bring it back
        environment = {"OMP_NUM_THREADS": str(num_cpus)}
        if num_gpus == 0:
            environment["CUDA_VISIBLE_DEVICES"] = (
                ""  # Ray hides those of others only from workers that have one
            )
        actor = ray.remote(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, runtime_env={"env_vars": environment}
        )(Performer)
        self._actor: Any = actor.remote(num_cpus)
        self.answer_ref: Any = None
        """To what it was asked last; None where that was listened to."""
        self.task: Task | None = None

    @property
    def is_free(self) -> bool:
        return self.answer_ref is None

    def load(self, parcel_ref: Any) -> None:
        """Have the work loaded."""
        self.answer_ref = self._actor.load.remote(parcel_ref)

    def give(self, task: Task) -> None:
        """Have a chunk performed."""
        self.task, self.answer_ref = task, self._actor.perform.remote(task.chunk)

    def listen(self) -> Rows | Failure | Death | None:
        """What came of the chunk, or of loading the work: None, or a failure. Afterwards the worker is free, or dead."""
        answer_ref, self.answer_ref, self.task = self.answer_ref, None, None
        try:
            answer: Rows | Failure | None = ray.get(answer_ref)
        except RayError as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                reason = str(error).strip().splitlines()[-1]
                raise RunError(f"workers do not start: {reason}; {START_HINT}") from error
            return Death(textwrap.shorten(str(error), MESSAGE_LENGTH, placeholder=" ..."))
        return answer

    def end(self) -> None:
        """Kill the actor, dead or alive."""
        ray.kill(self._actor)


class Performer:
    """The actor: holds the work, and performs chunks of it."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._work: Work | None = None

    def load(self, parcel: bytes) -> Failure | None:
        """Have this work instead of the one before; a failure where it cannot be unpickled."""
        self._work = None
        loaded = unpacked(parcel, self._num_threads)
        if isinstance(loaded, Failure):
            return replace(loaded, message=f"on {socket.gethostname()} {loaded.message}")
        self._work = loaded
        return None

    def perform(self, chunk: range) -> Rows | Failure:
        assert self._work is not None, "chunks are given to workers that have loaded the work"
        return performed(self._work, chunk)


def _room(machine: Mapping[str, float], num_cpus: int, num_gpus: float) -> int:
    """How many workers with so much each a machine can hold."""
    room = int(machine.get("CPU", 0) // num_cpus)
    if num_gpus == 0:
        return room
    gpus = int(machine.get("GPU", 0))
    return min(room, gpus // int(num_gpus) if num_gpus >= 1 else gpus * int(1 / num_gpus))


def _refuse_deaf(address: str) -> None:
    """ConnectionError where nobody listens at an address HOST:PORT: Ray itself would try for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        hint = "start one with `ray start --head`, or leave the address out to use this machine alone"
        raise ConnectionError(f"there is no Ray cluster at {address} ({error}); {hint}") from error
