"""What made a `results.json`: when, from which code, by which command, of which policy and PRM.

Invariant: nothing here is read back by a computation; it is written beside the measurements for the reader.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from forkpoint.version import __version__

GIT_TIMEOUT_S = 10
OWN_PROGRAMS = ("forkpoint", "__main__.py")


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of measurements."""

    date: str
    """UTC, ISO 8601, to the second."""
    commit: str | None
    """Commit of the package's checkout, with `-dirty` if files were changed since; None if it is not run from
    a checkout."""
    command: str
    """The command line."""
    version: str
    """Version of the package."""
    policy: str
    """The policy as it was given: a name, a directory, or a hub id."""
    prm: str | None
    """The PRM as it was given; None if nothing was scored."""

    @classmethod
    def now(cls, policy: str, prm: str | None) -> Self:
        """Return the origin of what this process measures now."""
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=commit_of(Path(__file__).parent),
            command=command_line(sys.argv),
            version=__version__,
            policy=policy,
            prm=prm,
        )


def command_line(argv: list[str]) -> str:
    """Return a command line as a shell reads it; our own program by its name, without its directory."""
    program, *arguments = argv
    name = Path(program).name
    return shlex.join(["forkpoint" if name in OWN_PROGRAMS else program, *arguments])


def commit_of(directory: Path) -> str | None:
    """Return the commit of the checkout that `directory` belongs to.

    None if git does not track its files: an installed package may lie inside of another project's checkout.
    """
    git = ["git", "-C", str(directory)]
    try:
        for arguments in (["ls-files", "--error-unmatch", "."], DESCRIBE):
            done = subprocess.run(
                [*git, *arguments], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


DESCRIBE = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
