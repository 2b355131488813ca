"""The learning curve of a PRM, from the journal of its training; `learning.html.j2` draws it.

Invariant: the losses of the steps are drawn as means over equally long blocks, the measurements on held-out
problems as they are, and the constant as the last measurement has it. A torn last line is ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forkpoint.report.charts import Frame, Tick, marker, nice_ticks
from forkpoint.report.fields import Fields

JOURNAL = Path("training") / "journal.jsonl"
NUM_BLOCKS = 50
"""Most points of the line of training losses: the loss of a single batch says little."""
_WIDE = Frame(width=760, height=300, left=52, right=18, top=30, bottom=50)
_NARROW = Frame(width=358, height=280, left=46, right=12, top=30, bottom=50)


@dataclass(frozen=True, slots=True)
class Check:
    """One measurement on the held-out problems."""

    step: int
    loss: float
    constant: float
    constant_loss: float
    gain: float
    gain_low: float
    gain_high: float
    auc: float | None
    ece: float
    mean_score: float
    mean_label: float
    num_problems: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class Training:
    """The losses of a training."""

    steps: tuple[tuple[int, float], ...]
    """(optimiser step, loss of its batch)."""
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class LearningChart:
    """A drawing of a training."""

    frame: Frame
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    train_path: str
    held_out_path: str
    marks: tuple[str, ...]
    """Paths of the markers of the checks."""
    constant_y: float | None


def read_training(prm: Path) -> Training | None:
    """Read the journal of the training of the PRM at `prm`.

    None if there is none, or if it holds no losses, as those of older versions. Raises ValueError with the
    line and the key if something is missing or mistyped.
    """
    path = prm / JOURNAL
    if not path.is_file():
        return None
    steps: list[tuple[int, float]] = []
    checks: list[Check] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            fields = Fields.of(json.loads(line), f"{path.name} line {number}")
        except ValueError as error:
            raise ValueError(f"{path} line {number} is not a JSON object: {error}") from None
        held_out = fields.maybe_inner("held_out")
        if held_out is not None:
            checks.append(_check(fields.count("step"), held_out))
        elif "loss" in fields.values:
            steps.append((fields.count("step"), fields.number("loss")))
    return Training(tuple(steps), tuple(checks)) if steps else None


def learning_charts(training: Training) -> tuple[LearningChart, LearningChart]:
    """Return a wide and a narrow drawing."""
    return _chart(training, _WIDE), _chart(training, _NARROW)


def blocks(steps: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Return (mean step, mean loss) of at most `NUM_BLOCKS` runs of steps."""
    size = math.ceil(len(steps) / NUM_BLOCKS)
    found = []
    for start in range(0, len(steps), size):
        block = steps[start : start + size]
        found.append(
            (sum(step for step, _ in block) / len(block), sum(loss for _, loss in block) / len(block))
        )
    return found


def _check(step: int, held_out: Fields) -> Check:
    numbers = ("loss", "constant", "constant_loss", "gain", "gain_low", "gain_high", "ece")
    return Check(
        step=step,
        auc=held_out.maybe_number("auc"),
        mean_score=held_out.number("mean_score"),
        mean_label=held_out.number("mean_label"),
        num_problems=held_out.count("num_problems"),
        num_steps=held_out.count("num_steps"),
        **{name: held_out.number(name) for name in numbers},
    )


def _chart(training: Training, frame: Frame) -> LearningChart:
    train = blocks(training.steps)
    constant = training.checks[-1].constant_loss if training.checks else None
    losses = [loss for _, loss in train] + [check.loss for check in training.checks]
    losses += [] if constant is None else [constant]
    x_ticks = nice_ticks(0, training.steps[-1][0], most=6)
    y_ticks = nice_ticks(min(losses), max(losses), most=6)
    width, height = frame.width - frame.left - frame.right, frame.height - frame.top - frame.bottom

    def place_x(step: float) -> float:
        return frame.left + width * step / x_ticks[-1]

    def place_y(loss: float) -> float:
        return frame.top + height * (y_ticks[-1] - loss) / (y_ticks[-1] - y_ticks[0])

    checks = [(place_x(check.step), place_y(check.loss)) for check in training.checks]
    return LearningChart(
        frame=frame,
        x_ticks=tuple(Tick(place_x(value), f"{value:,.0f}") for value in x_ticks if value == int(value)),
        y_ticks=tuple(Tick(place_y(value), f"{value:.4g}") for value in y_ticks),
        train_path=_path([(place_x(step), place_y(loss)) for step, loss in train]),
        held_out_path=_path(checks),
        marks=tuple(marker(0, x, y, 3.6) for x, y in checks),
        constant_y=None if constant is None else place_y(constant),
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
