"""Which PRM, and of which family: the flags of every command that scores. Importing this file does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from forkpoint.prms import load_prm
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Scorer

if TYPE_CHECKING:
    from forkpoint.prms.family import FamilyPRM
    from forkpoint.prms.tagged import TaggedPRM

TOKEN = "FORKPOINT_TOKEN"
"""The environment variable with the token that a PRM's server asks for."""


class PRM(Scorer, Protocol):
    """A `Scorer` that says how its steps are cut."""

    @property
    def format(self) -> PRMFormat: ...


@dataclass(frozen=True)
class FamilyConfig:
    """How a public PRM is read, where its files do not tell."""

    family: str | None = None
    """Of the PRM, where its files do not tell: forkpoint, math-shepherd, er-prm, rlhflow, implicit, qwen, skywork, trl, pure."""
    separator: str | None = None
    """What follows every step, for the families trl and pure."""
    reference: str | None = None
    """The model that an implicit PRM was trained from, a directory or a hub id."""
    beta: float | None = None
    """Of an implicit PRM."""

    def load(self, prm: str, device: str = "auto") -> PRM:
        """The PRM in a directory, of that name on the hub, or served at that address (http://...) by `forkpoint serve`.

        Raises what `load_prm` raises; ServerError where no such server answers.
        """
        if not prm.startswith(("http://", "https://")):
            return self.load_weights(prm, device)
        if self != FamilyConfig():
            raise ValueError("a PRM that is served is read by its server; give the family there")
        from forkpoint.prms.remote import RemotePRM

        return RemotePRM(prm, os.environ.get(TOKEN))

    def load_weights(self, prm: str, device: str = "auto") -> TaggedPRM | FamilyPRM:
        """The PRM in a directory or of that name on the hub; raises what `load_prm` raises."""
        options: dict[str, Any] = {
            "separator": self.separator,
            "reference": self.reference,
            "beta": self.beta,
        }
        return load_prm(
            prm, device, self.family, **{name: value for name, value in options.items() if value is not None}
        )
