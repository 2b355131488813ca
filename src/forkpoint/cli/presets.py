"""`--preset`: its fields are the defaults of the training flags that are not given.

Invariant: a flag that is given has the last word, also where it says what the default without a preset is.
"""

from __future__ import annotations

from functools import reduce

from cyclopts import App, Argument, ArgumentCollection, Token

from forkpoint.training.config import TrainConfig
from forkpoint.training.presets import preset_named


def preset_defaults(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give the fields of a `TrainConfig` that have no flag those of the preset, in whatever command."""
    named = [
        argument.tokens[0].value for argument in arguments if argument.name == "--preset" and argument.tokens
    ]
    for argument in arguments:
        if named and argument.hint is TrainConfig:
            _fill(argument, preset_named(named[0]))


def _fill(argument: Argument, preset: TrainConfig) -> None:
    for child in argument.children:
        if child.children:
            _fill(child, preset)
        elif not child.tokens:
            child.append(Token(implicit_value=reduce(getattr, child.keys, preset), source="preset"))
