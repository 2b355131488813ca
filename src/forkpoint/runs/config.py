"""Flags of every command whose work can be spread over workers.

Importing this file does not import Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from forkpoint.checks import check_at_least
from forkpoint.errors import MissingPackageError
from forkpoint.runs.local import LocalExecutor
from forkpoint.runs.pool import PoolExecutor
from forkpoint.runs.work import Executor


@dataclass(frozen=True)
class WorkersConfig:
    """How many workers do the work, and where."""

    workers: int = 1
    """Number of processes that sample, each with its own policy; on CPUs one per core is fastest. 1 is this
    process alone, unless --ray is given."""
    ray: str | None = None
    """Spread the workers over machines with Ray: the address of a cluster (HOST:PORT), or `auto` for the
    cluster that this machine is in, or for this machine alone if it is in none."""
    gpus_per_worker: float = 0.0
    """Number of GPUs of each worker, with Ray; at least as many as --tensor-parallel."""
    cpus_per_worker: int = 1
    """Number of cores of each worker, with Ray."""

    def __post_init__(self) -> None:
        check_at_least(1, workers=self.workers)
        if self.ray is None and (self.gpus_per_worker, self.cpus_per_worker) != (0.0, 1):
            raise ValueError(
                "gpus_per_worker and cpus_per_worker are for Ray; say --ray auto, or leave them out"
            )

    @contextmanager
    def executor(self, chunk_size: int) -> Iterator[Executor]:
        """The executor; its workers end with the context.

        MissingPackageError if Ray is asked for and not installed.
        """
        if self.ray is not None:
            try:
                from forkpoint.runs.ray import RayExecutor
            except ModuleNotFoundError as error:
                raise MissingPackageError(str(error)) from error
            address = None if self.ray == "auto" else self.ray
            with RayExecutor(
                self.workers, self.gpus_per_worker, self.cpus_per_worker, chunk_size, address
            ) as spread:
                yield spread
        elif self.workers == 1:
            yield LocalExecutor(chunk_size=chunk_size)
        else:
            with PoolExecutor(num_workers=self.workers, chunk_size=chunk_size) as pool:
                yield pool
