"""The package's own exception types; everything else is a plain ValueError, TypeError or FileNotFoundError.

Exception
└── ForkpointError
    ├── RunError            a run directory cannot be used as asked
    │   ├── RunLocked       another process writes to it
    │   ├── ConfigDiffers   it was started with another configuration
    │   └── JournalCorrupt  a complete line of the journal cannot be read
    ├── LayoutError         text, tags and tokens do not fit together; scoring would be silently wrong
    │   └── TooLongError    the solution has more tokens than the PRM reads
    ├── ServerError         a server refused a request, gave no usable answer, or did not answer in time
    └── MissingPackageError the request needs a package that is not installed
"""

from __future__ import annotations


class ForkpointError(Exception):
    """The base of every error that forkpoint raises on purpose, except for plain bad arguments."""


class RunError(ForkpointError):
    """A run directory cannot be used as asked."""


class RunLocked(RunError):
    """Another process is writing to the run."""


class ConfigDiffers(RunError):
    """The run was started with another configuration; the message names the keys."""


class JournalCorrupt(RunError):
    """A complete line of the journal cannot be read."""


class LayoutError(ForkpointError):
    """Step tags, positions or lengths do not fit a model's tokenizer.

    A score would be read at the wrong place.
    """


class TooLongError(LayoutError):
    """A solution has more tokens than the PRM reads; it is refused, never cut."""


class ServerError(ForkpointError):
    """A server refused a request, gave no usable answer, or did not answer in time."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """`status` is the HTTP status of a refusal; None for any other failure."""
        super().__init__(message)
        self.status = status


class MissingPackageError(ForkpointError):
    """An optional package is not installed; the message says which, and how to get it."""
