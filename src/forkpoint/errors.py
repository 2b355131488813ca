"""The package's own exception types; everything else is a plain ValueError, TypeError or FileNotFoundError.

Exception
└── ForkpointError
    ├── RunError            a run directory cannot be used as asked
    │   ├── RunLocked       another process writes to it
    │   ├── ConfigDiffers   it was started with another configuration
    │   └── JournalCorrupt  a complete line of the journal cannot be read
    ├── LayoutError         text, tags and tokens do not fit together; scoring would be silently wrong
    │   └── TooLongError    the solution has more tokens than the PRM reads
    ├── ServerError         a server refused, answered what cannot be used, or stayed away for too long
    └── MissingPackageError what was asked for needs a package that is not installed
"""

from __future__ import annotations


class ForkpointError(Exception):
    """Whatever forkpoint raises on purpose that is not a plain bad argument."""


class RunError(ForkpointError):
    """A run directory cannot be used as asked."""


class RunLocked(RunError):
    """Another process is writing to the run."""


class ConfigDiffers(RunError):
    """The run was started with another configuration; the message names the keys."""


class JournalCorrupt(RunError):
    """A complete line of the journal cannot be read."""


class LayoutError(ForkpointError):
    """Step tags, positions or lengths do not fit a model's tokenizer; refusing is the only honest answer."""


class TooLongError(LayoutError):
    """A solution has more tokens than the PRM reads; it is refused, never cut."""


class ServerError(ForkpointError):
    """A server refused a request, answered what cannot be used, or did not answer for too long."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """`status` is the HTTP status of a refusal."""
        super().__init__(message)
        self.status = status


class MissingPackageError(ForkpointError):
    """An optional package is not installed; the message says which, and how to get it."""
