"""Which labels are derived from raw outcomes; the choice can be changed later without sampling again."""

from __future__ import annotations

from dataclasses import dataclass

from forkpoint.checks import check_choice
from forkpoint.labels.leaves import WEIGHTINGS, Weighting
from forkpoint.labels.values import OUTCOME, Value, canonical_value, value_named
from forkpoint.steps import SEGMENTATIONS, Segmentation


@dataclass(frozen=True)
class LabelConfig:
    """Which labels are derived from the outcomes of a run."""

    value: str = "mean"
    """How the outcomes below a step become one number: mean (EDU-PRM, Math-Shepherd soft), hit (1 if any is
    right; Math-Shepherd hard), er (ER-PRM, with eta; or er:ETA), outcome (ORM: the whole solution is one
    step). The names of the methods are accepted too."""
    eta: float | None = None
    """The eta of the value er; 2 if it is not given."""
    weighting: Weighting = "uniform"
    """Whether leaves of a tree count once each (uniform), or by their renormalised branch probabilities
    (policy)."""
    segmentation: Segmentation = "newline"
    """How solutions are cut into steps: into lines (newline), before entropy anchors (entropy), or not at all
    (solution)."""

    def __post_init__(self) -> None:
        canonical_value(self.value)
        check_choice("weighting", self.weighting, WEIGHTINGS)
        check_choice("segmentation", self.segmentation, SEGMENTATIONS)

    def check(self) -> None:
        """Raise ValueError if eta is given for a value that has none.

        Call it before anything is sampled or written.
        """
        canonical_value(self.value, self.eta)

    @property
    def canonical_value(self) -> str:
        """mean, hit, outcome or er:ETA. ValueError if eta is given for a value that has none."""
        return canonical_value(self.value, self.eta)

    @property
    def step_segmentation(self) -> Segmentation:
        """How the labelled steps are cut: not at all if the value is `outcome`."""
        return "solution" if self.canonical_value == OUTCOME else self.segmentation

    @property
    def step_value(self) -> Value:
        """How outcomes become one number.

        Whole solutions are labelled with their own outcome and do not use it.
        """
        return value_named("mean") if self.canonical_value == OUTCOME else value_named(self.value, self.eta)
