"""What labels are derived from raw outcomes; it can be changed later without sampling again."""

from __future__ import annotations

from dataclasses import dataclass

from forkpoint.labels.leaves import WEIGHTINGS, Weighting
from forkpoint.labels.values import OUTCOME, Value, canonical_value, value_named
from forkpoint.steps import SEGMENTATIONS, Segmentation


@dataclass(frozen=True)
class LabelConfig:
    """What labels are derived from the outcomes of a run."""

    value: str = "mean"
    """What sums up the outcomes below a step: mean (EDU-PRM, Math-Shepherd soft), hit (1 if any is right; Math-Shepherd
    hard), er (ER-PRM, with eta; or er:ETA), outcome (ORM: the whole solution is one step). The methods' names are read too."""
    eta: float | None = None
    """Of the value er; 2 where it is not given."""
    weighting: Weighting = "uniform"
    """Leaves of a tree count once each (uniform), or by their renormalised branch probabilities (policy)."""
    segmentation: Segmentation = "newline"
    """Steps are lines (newline), begin at entropy anchors (entropy), or are the whole solution (solution)."""

    def __post_init__(self) -> None:
        canonical_value(self.value)
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting {self.weighting!r} is unknown; choose from {', '.join(WEIGHTINGS)}")
        if self.segmentation not in SEGMENTATIONS:
            raise ValueError(
                f"segmentation {self.segmentation!r} is unknown; choose from {', '.join(SEGMENTATIONS)}"
            )

    def check(self) -> None:
        """ValueError where eta is given for a value that has none; called before anything is sampled or written."""
        canonical_value(self.value, self.eta)

    @property
    def canonical_value(self) -> str:
        """mean, hit, outcome or er:ETA. ValueError where eta is given for a value that has none."""
        return canonical_value(self.value, self.eta)

    @property
    def step_segmentation(self) -> Segmentation:
        """How the labelled steps are cut: the whole solution where only its outcome counts."""
        return "solution" if self.canonical_value == OUTCOME else self.segmentation

    @property
    def step_value(self) -> Value:
        """What sums outcomes up. Steps of the segmentation `solution` are labelled with their own outcome and need none."""
        return value_named("mean") if self.canonical_value == OUTCOME else value_named(self.value, self.eta)
