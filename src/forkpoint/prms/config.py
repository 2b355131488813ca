"""Flags of every command that scores: the family of the PRM. Importing this file does not import torch."""

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
"""The environment variable that holds the token for the server of a PRM."""


class PRM(Scorer, Protocol):
    """A `Scorer` that tells how its steps are cut."""

    @property
    def format(self) -> PRMFormat:
        """How the steps that it scores are cut, and how their scores are aggregated."""
        ...


@dataclass(frozen=True)
class FamilyConfig:
    """How a public PRM is read if its files do not tell."""

    family: str | None = None
    """The family of the PRM, if its files do not tell: forkpoint, math-shepherd, er-prm, rlhflow, implicit,
    qwen, skywork, trl, pure."""
    separator: str | None = None
    """The text that follows every step, for the families trl and pure."""
    reference: str | None = None
    """The model that an implicit PRM was trained from: a directory or a hub id."""
    beta: float | None = None
    """The factor of the log-ratio of an implicit PRM."""

    def load(self, prm: str, device: str = "auto") -> PRM:
        """Load the PRM in a directory, on the hub, or at the address (http://...) of a `forkpoint serve`.

        Raises the errors of `load_prm`; ServerError if no such server answers.
        """
        if not prm.startswith(("http://", "https://")):
            return self.load_weights(prm, device)
        if self != FamilyConfig():
            raise ValueError("a PRM that is served is read by its server; give the family there")
        from forkpoint.prms.remote import RemotePRM

        return RemotePRM(prm, os.environ.get(TOKEN))

    def load_weights(self, prm: str, device: str = "auto") -> TaggedPRM | FamilyPRM:
        """Load the PRM in a directory or on the hub; raises the errors of `load_prm`."""
        options: dict[str, Any] = {
            "separator": self.separator,
            "reference": self.reference,
            "beta": self.beta,
        }
        return load_prm(
            prm, device, self.family, **{name: value for name, value in options.items() if value is not None}
        )
