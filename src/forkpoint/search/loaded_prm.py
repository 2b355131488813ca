"""A PRM that can be sent to other processes: pickled as its origin and options, loaded again when unpickled.

In this way each process of a parallel search has its own PRM, just as it has its own policy. Invariant: it is
the same PRM in every process, or an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkpoint.prms.config import FamilyConfig
from forkpoint.search.guide import Guide


class LoadedPRM:
    """A `Scorer` from a directory, the hub or a server."""

    def __init__(self, prm: str, family: FamilyConfig, device: str = "auto") -> None:
        """Load the PRM; see `FamilyConfig.load` for the arguments."""
        self._origin = (prm, family, device)
        self._prm = family.load(prm, device)
        self.name, self.format = self._prm.name, self._prm.format

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        return self._prm.score(questions, steps)

    def guide(self) -> Guide:
        """A guide that counts the PRM's own tokens if its tokenizer is known; that of a server is not."""
        return Guide(self, self.format, self._lay_out if hasattr(self._prm, "encode") else None)

    def _lay_out(self, question: str, steps: Sequence[str]) -> Sequence[int]:
        # only a PRM in memory has `encode`
        ids: Sequence[int] = self._prm.encode(question, steps).input_ids  # type: ignore[attr-defined]
        return ids

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded_again, (*self._origin, self.name)


def _loaded_again(prm: str, family: FamilyConfig, device: str, name: str) -> LoadedPRM:
    loaded = LoadedPRM(prm, family, device)
    if loaded.name != name:
        raise ValueError(
            f"{prm} was {name} when it was loaded and is {loaded.name} now; start again with one PRM"
        )
    return loaded
