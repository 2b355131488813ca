"""Who does the work: the flags of every command whose work can be shared out.

Importing this file does not import Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from forkpoint.errors import MissingPackageError
from forkpoint.runs.local import LocalExecutor
from forkpoint.runs.pool import PoolExecutor
from forkpoint.runs.work import Executor


@dataclass(frozen=True)
class WorkersConfig:
    """How many workers, and where."""

    workers: int = 1
    """Processes that sample, each with a policy of its own; on CPUs, one per core is fastest. 1 is this process, unless --ray."""
    ray: str | None = None
    """Have Ray spread the workers over machines: the cluster's address (HOST:PORT), or `auto` for the one this machine is in, or
    none but this machine."""
    gpus_per_worker: float = 0.0
    """With Ray, GPUs of each worker; at least as many as --tensor-parallel."""
    cpus_per_worker: int = 1
    """With Ray, cores of each worker."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1; {self.workers} was given")
        if self.ray is None and (self.gpus_per_worker, self.cpus_per_worker) != (0.0, 1):
            raise ValueError(
                "gpus_per_worker and cpus_per_worker are for Ray; say --ray auto, or leave them out"
            )

    @contextmanager
    def executor(self, chunk_size: int) -> Iterator[Executor]:
        """What does the work; its workers end with the context. MissingPackageError where Ray is asked for and not installed."""
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
