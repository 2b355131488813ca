"""`--preset NAME`: the values of the preset become the defaults of the training flags.

Invariant: a flag on the command line wins over the preset, also if it repeats the default without a preset.
"""

from __future__ import annotations

from functools import reduce

from cyclopts import App, Argument, ArgumentCollection, Token

from forkpoint.training.config import TrainConfig
from forkpoint.training.presets import preset_named


def preset_defaults(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill every `TrainConfig` of a command from `--preset`; cyclopts calls this before it binds flags."""
    name = _preset_name(arguments)
    if name is None:
        return
    preset = preset_named(name)
    for argument in arguments:
        if argument.hint is TrainConfig:
            _fill(argument, preset)


def _preset_name(arguments: ArgumentCollection) -> str | None:
    """The value of `--preset`; None if the command has no such flag, or it is not given."""
    for argument in arguments:
        if argument.name == "--preset" and argument.tokens:
            return argument.tokens[0].value
    return None


def _fill(config: Argument, preset: TrainConfig) -> None:
    """Give each flag below `config` that is not on the command line the value of its field in the preset."""
    for flag in config.children:
        if flag.children:  # a configuration inside the configuration, such as `format`
            _fill(flag, preset)
        elif not flag.tokens:
            value = reduce(getattr, flag.keys, preset)  # keys ("format", "tag") mean preset.format.tag
            flag.append(Token(implicit_value=value, source="preset"))
