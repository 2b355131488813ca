"""A PRM that travels: pickled as where it came from and how it was loaded, and loaded again where it is unpickled.

So the processes that search side by side have a PRM each, as they have a policy each. Invariant: it is the same PRM
everywhere, or an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkpoint.prms.config import FamilyConfig
from forkpoint.search.guide import Guide


class LoadedPRM:
    """A `Scorer` out of a directory, the hub, or a server."""

    def __init__(self, prm: str, family: FamilyConfig, device: str = "auto") -> None:
        """See `FamilyConfig.load`."""
        self._origin = (prm, family, device)
        self._prm = family.load(prm, device)
        self.name, self.format = self._prm.name, self._prm.format

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        return self._prm.score(questions, steps)

    def guide(self) -> Guide:
        """With the PRM's own tokens counted, where its tokenizer is at hand; a server keeps it to itself."""
        return Guide(self, self.format, self._lay_out if hasattr(self._prm, "encode") else None)

    def _lay_out(self, question: str, steps: Sequence[str]) -> Sequence[int]:
        ids: Sequence[int] = self._prm.encode(question, steps).input_ids  # type: ignore[attr-defined]  # only a PRM in memory has it
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
