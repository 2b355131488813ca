"""The compared PRMs, which differ only in what they are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forkpoint.labels.leaves import Weighting
from forkpoint.prms.layout import Head

Source = Literal["edu", "rollouts", "more-rollouts", "tree-rollouts", "omega", "samples", "edu+samples"]


@dataclass(frozen=True)
class Variant:
    """One kind of labels."""

    name: str
    source: Source
    """The source of the labels.

    edu: leaves of trees; rollouts: completions of the prefixes of samples (more-rollouts: twice as many
    completions; tree-rollouts: prefixes of tree leaves); omega: bisection; samples: outcomes of the samples
    themselves; edu+samples: trees and samples, each with labels of its kind.
    """
    value: str = "mean"
    """The value: mean, hit, outcome or er:ETA."""
    weighting: Weighting = "uniform"
    cut: str = "newline"
    num_rollouts: int | None = None
    """Number of completions per prefix; None for all that were drawn."""
    share: float = 1.0
    """Share of the problems of a seed."""
    is_large: bool = False
    """Whether all labelled trees of the stock are used."""
    budget: Literal["none", "edu"] = "none"
    """`edu`: as many problems as cost the same as the seed's EDU trees."""
    head: Head = "classifier"
    """The head: `classifier` has two classes, `tokens` uses the logits of `+` and `-`."""
    evidence: bool = False
    """Whether steps are weighted by their evidence."""
    tuned_as: str = ""
    """The variant whose learning rate is used; its own if empty."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("edu", "edu"),
        Variant("soft", "rollouts"),
        Variant("hard", "rollouts", "hit"),
        Variant("er-2", "rollouts", "er:2"),
        Variant("orm", "rollouts", "outcome"),
        Variant("omega", "omega", budget="edu"),
        *(
            Variant(f"edu-{round(100 * share)}pct", "edu", share=share, tuned_as="edu")
            for share in (0.02, 0.1, 0.25)
        ),
        Variant("edu-large", "edu", is_large=True, tuned_as="edu"),
        *(
            Variant(f"er-{eta:g}", "rollouts", f"er:{eta:g}", tuned_as="er-2")
            for eta in (0.1, 1, 5, 8, 10, 15)
        ),
        *(Variant(f"soft-k{k}", "rollouts", num_rollouts=k, tuned_as="soft") for k in (4, 8)),
        *(Variant(f"er-2-k{k}", "rollouts", "er:2", num_rollouts=k, tuned_as="er-2") for k in (4, 8)),
        Variant("soft-k32", "more-rollouts", tuned_as="soft"),
        Variant("er-2-k32", "more-rollouts", "er:2", tuned_as="er-2"),
        Variant("shepherd-budget", "rollouts", "hit", num_rollouts=8, budget="edu", tuned_as="hard"),
        Variant("shepherd-soft-budget", "rollouts", num_rollouts=8, budget="edu", tuned_as="soft"),
        Variant("shepherd-on-edu", "tree-rollouts", "hit", num_rollouts=8, tuned_as="hard"),
        Variant("edu-hit", "edu", "hit", tuned_as="edu"),
        Variant("edu-er-2", "edu", "er:2", tuned_as="edu"),
        Variant("edu-policy", "edu", weighting="policy", tuned_as="edu"),
        Variant("edu-evidence", "edu", evidence=True, tuned_as="edu"),
        Variant("edu-entropy", "edu", cut="entropy", tuned_as="edu"),
        Variant("edu-random", "edu", cut="random", tuned_as="edu"),
        Variant("edu-tokens", "edu", head="tokens", tuned_as="edu"),
        Variant("own", "samples", tuned_as="soft"),
        Variant("edu-own", "edu+samples", tuned_as="edu"),
        Variant("edu-policy-large", "edu", weighting="policy", is_large=True, tuned_as="edu"),
    )
}
TUNED = ("edu", "soft", "hard", "er-2", "orm", "omega")
LEARNING_RATES = (8e-4, 1.6e-3)
