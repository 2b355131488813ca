"""`python -m forkpoint` is the `forkpoint` command."""

from forkpoint.cli import main

main()
