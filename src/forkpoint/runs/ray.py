"""The executor that does a work with workers on many machines, chunk by chunk, through Ray.

    with RayExecutor(num_workers=16, gpus_per_worker=1) as executor:
        executor.execute(run, work)

Every worker is a Ray actor with its own copy of the work. The work goes to the object store once per pass,
and to a worker once; from then on a worker is sent the bounds of one chunk at a time, and sends its rows
back. Only this process writes to the run, and it journals the chunks in their order.

Invariant: if a row depends on its chunk alone, and not on the process and the machine, the journal is byte
for byte that of a `LocalExecutor` with the same chunk size, whatever dies on the way, this process included.
This file does not bring the package, the model or the data to other machines, and does not spread one model
over several workers. It is the only file that needs Ray.
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

from forkpoint.checks import check_at_least
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
"""How often a chunk is tried if its worker dies; once more than on one machine, since machines may leave a
cluster."""
PATIENCE_S = 60.0
"""Seconds without news from any worker, after which the room on the cluster is checked."""
CONNECT_TIMEOUT_S = 10.0
START_HINT = (
    "forkpoint, and what it needs, must be installed on every machine, and a worker needs room for the model"
)
MESSAGE_LENGTH = 400
"""Characters at most of Ray's message about a death; the rest is general advice."""


@dataclass(frozen=True, eq=False)
class RayExecutor:
    """Does a work in Ray actors, which are kept for the next work until `close`; a context manager.

    If a worker or its machine dies, the worker is replaced and its chunk is given to the next free worker. A
    chunk is tried three times, then recorded as failed. The rows of a chunk wait for the chunks before it, so
    a stop costs up to `num_workers` * 4 chunks. Workers end with this process, however it ends.
    Every worker loads a policy from `load_policy` from the same path or hub id, and keeps it for later works
    with the same policy. A work that cannot be pickled, or that holds an open run or a torch module, is done
    in this process, with a warning unless its `stays_here` is True.
    The first `execute` that has something to do starts Ray or joins the cluster; `close` leaves it, unless
    the program was connected to it before.
    """

    num_workers: int = 2
    """Number of actors at most, over all machines."""
    gpus_per_worker: float = 0.0
    """Number of GPUs that each worker reserves and sees; at least as many as its policy is spread over
    (tensor parallel). With a fraction such as 0.5, several workers share one GPU; with 0 a worker sees
    none."""
    cpus_per_worker: int = 1
    """Number of cores that each worker reserves, and of threads that torch uses there."""
    chunk_size: int = 32
    """Items per call of `perform`."""
    address: str | None = None
    """Address of the cluster, such as 10.0.0.1:6379. None takes the environment variable RAY_ADDRESS, or else
    the cluster that this machine belongs to; without either, Ray is started for this process on this machine
    alone."""
    progress: bool = True
    """Whether to show on stderr how far the work is."""
    max_failed_chunks: int = 3
    """Number of failed chunks in a row that stop the pass: the cause then is hardly in the items."""
    _workers: list[Worker] = field(default_factory=list, init=False, repr=False)
    _ray: ExitStack = field(default_factory=ExitStack, init=False, repr=False)
    """Ends the connection to Ray, if this executor made it."""

    def __post_init__(self) -> None:
        check_at_least(
            1,
            num_workers=self.num_workers,
            cpus_per_worker=self.cpus_per_worker,
            chunk_size=self.chunk_size,
            max_failed_chunks=self.max_failed_chunks,
        )
        if self.gpus_per_worker < 0 or (self.gpus_per_worker > 1 and self.gpus_per_worker % 1):
            raise ValueError(
                "gpus_per_worker must be a whole number, or a fraction of one GPU; "
                f"{self.gpus_per_worker} was given"
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
        """Do the owed items of `work` and append their rows to the journal of `run`.

        Failures are as in `LocalExecutor`.

        ValueError if the cluster has no room for the workers, ConnectionError if there is no cluster at the
        address. RunError after `max_failed_chunks` failed chunks in a row, if the disk refuses a write, if a
        worker cannot load the work, and if workers die before they have loaded it.
        """
        local = LocalExecutor(self.chunk_size, self.progress, self.max_failed_chunks)
        return execute_with_workers(run, work, local, self._outcomes, self.close)

    def _connect(self) -> None:
        """Join the cluster, or start one. ValueError if it has no room for the workers."""
        if not ray.is_initialized():
            _refuse_deaf(self.address or os.environ.get("RAY_ADDRESS", ""))
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(self.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            self._ray.callback(ray.shutdown)
        if not self._workers and (lack := self._lack_of_room(self.num_workers)):
            raise ValueError(lack)

    def _outcomes(self, parcel: bytes, chunks: Sequence[range]) -> Iterator[Rows | Failure]:
        """Have the chunks performed by actors, which keep the work until they load another one."""
        self._connect()
        start = partial(Worker, self.cpus_per_worker, self.gpus_per_worker)
        crew = Crew(self._workers, self.num_workers, NUM_ATTEMPTS, start, self._ready, START_HINT)
        return crew.outcomes(ray.put(parcel), chunks)

    def _ready(self, workers: Sequence[Worker]) -> list[Worker]:
        """Wait for a worker that has answered or died; returns none if that takes long."""
        asked = {worker.answer_ref: worker for worker in workers if not worker.is_free}
        ready, _ = ray.wait(list(asked), timeout=PATIENCE_S)
        if ready:
            return [asked[ready[0]]]
        if all(worker.task is None for worker in asked.values()):  # nothing is being done at all
            if lack := self._lack_of_room(1):
                raise RunError(f"{lack}; then run the same command again")
            warnings.warn(
                "no worker is ready: they load the work, or wait for room that others use on the Ray cluster",
                stacklevel=2,
            )
        return []

    def _lack_of_room(self, num_workers: int) -> str:
        """Return a message if the cluster has no room for that many workers, else an empty text.

        Workers of others are not considered: their room counts as free.
        """
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        room = sum(_room(machine, self.cpus_per_worker, self.gpus_per_worker) for machine in machines)
        if room >= num_workers:
            return ""
        num_cpus, num_gpus = (sum(machine.get(name, 0) for machine in machines) for name in ("CPU", "GPU"))
        return (
            f"{self.num_workers} workers with {self.cpus_per_worker} CPUs and "
            f"{self.gpus_per_worker:g} GPUs each were asked for; the Ray cluster has room for {room} "
            f"({num_cpus:g} CPUs and {num_gpus:g} GPUs on {len(machines)} machines): "
            "ask for fewer or smaller ones, or add machines"
        )


class Worker:
    """One actor, as seen by the process that gives it chunks."""

    def __init__(self, num_cpus: int, num_gpus: float) -> None:
        # Ray must not restart a worker that died: it would have lost the work
        environment = {"OMP_NUM_THREADS": str(num_cpus)}
        if num_gpus == 0:
            # Ray hides the GPUs of others only from workers that have one themselves
            environment["CUDA_VISIBLE_DEVICES"] = ""
        actor = ray.remote(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, runtime_env={"env_vars": environment}
        )(Performer)
        self._actor: Any = actor.remote(num_cpus)
        self.answer_ref: Any = None
        """Ray's reference to the answer that the worker owes; None if it owes none."""
        self.task: Task | None = None
        self.hand: set[int] = set()

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
        """Return the outcome of the chunk, or of loading: None, or a failure.

        The worker then is free, or dead.
        """
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
        """Replace the work; returns a failure if the new one cannot be unpickled."""
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
    """Return how many workers of that size a machine can hold."""
    room = int(machine.get("CPU", 0) // num_cpus)
    if num_gpus == 0:
        return room
    gpus = int(machine.get("GPU", 0))
    return min(room, gpus // int(num_gpus) if num_gpus >= 1 else gpus * int(1 / num_gpus))


def _refuse_deaf(address: str) -> None:
    """Raise ConnectionError if nobody listens at HOST:PORT: Ray itself would try for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        hint = "start one with `ray start --head`, or leave the address out to use this machine alone"
        raise ConnectionError(f"there is no Ray cluster at {address} ({error}); {hint}") from error
