"""The application that commands register with, and its exit status.

Exit status: 0 done; 1 partly done (a message says what is missing); 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import sys

from cyclopts import App, Parameter

from forkpoint.cli.console import err_console
from forkpoint.cli.presets import preset_defaults
from forkpoint.errors import ForkpointError
from forkpoint.version import __version__

app = App(
    name="forkpoint",
    version=__version__,
    help="Process reward models without annotators.",
    config=preset_defaults,
)

Flat = Parameter(name="*")
"""Makes the fields of a configuration flags without a prefix."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; bad input ends with one sentence on stderr and status 2."""
    try:
        sys.exit(app(argv, result_action="return_value"))
    except KeyboardInterrupt:
        err_console.print("interrupted; a command that writes to a run continues when it is given again")
        sys.exit(130)
    except (ForkpointError, ValueError, TypeError, OSError) as error:
        err_console.print(f"forkpoint: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
