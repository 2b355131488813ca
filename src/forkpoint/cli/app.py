"""The application that commands register with, and its exit status.

Exit status: 0 done; 1 partly done (a message says what is missing); 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import os
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
    suppress_keyboard_interrupt=False,  # or the process would end without a word
)

Flat = Parameter(name="*")
"""Makes the fields of a configuration flags without a prefix."""


SPIN_COUNT = "1000"
"""Rounds that an OpenMP thread spins while it waits for others, before it sleeps."""


def let_idle_threads_sleep() -> None:
    """Have OpenMP threads that wait spin only briefly, unless the environment says how they should wait.

    On busy cores, threads that spin for each other take several times as long. On free ones, spinning briefly
    costs up to half as much time again in loops of small products, and sleeping at once far more
    (`benchmarks/idle_threads.py`). OpenMP reads the variable when torch is loaded, so this runs before any
    command.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; bad input ends with one sentence on stderr and status 2."""
    let_idle_threads_sleep()
    try:
        sys.exit(app(argv, result_action="return_value"))
    except KeyboardInterrupt:
        err_console.show_cursor()  # a progress display hides it, and may not have come to its end
        err_console.print("interrupted; a command that writes to a run continues when it is given again")
        sys.exit(130)
    except (ForkpointError, ValueError, TypeError, OSError) as error:
        err_console.print(f"forkpoint: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
