"""Write docs/reference/commands.md: every command with the flags and defaults that it declares.

    python recipes/commands_page.py            # print the page
    python recipes/commands_page.py --write    # write it

A test holds the page to this program, so the page does not drift from the commands.
"""

from __future__ import annotations

import sys
from pathlib import Path

from forkpoint.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"
INTRODUCTION = """# Commands

This page is generated from the command line: `python recipes/commands_page.py --write`. In a terminal,
`forkpoint COMMAND --help` prints the same. Flags that are not given have the defaults below.

Exit status: 0 done; 1 done in part (the message says what is owed), or a problem that `forkpoint doctor`
found; 2 bad input; 130 interrupted.
"""


def page() -> str:
    """The page as Markdown."""
    given, sys.argv = sys.argv, ["forkpoint"]  # usage lines name the program that runs
    try:
        generated = app.generate_docs(output_format="markdown")
    finally:
        sys.argv = given
    body = generated.split("**Commands**:", 1)[1]
    return f"{INTRODUCTION}\n**All commands**:{body.rstrip()}\n"


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit("usage: python recipes/commands_page.py [--write]")
    if sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
        print(PAGE)
    else:
        print(page(), end="")
