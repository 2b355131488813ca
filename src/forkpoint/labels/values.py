"""Values, the functions that sum outcomes up: `mean`, `hit`, `log_mean_exp(eta)`, and the outcome alone.

A published label is a plan and a value (see `PRODUCTS`).
Invariant: a value is a function of outcomes and weights alone, monotone in every outcome.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PlanName = Literal["leaves", "rollouts", "bisect"]
OUTCOME = "outcome"
"""The name of the value that sums nothing up: the whole solution is one step, labelled with its own outcome
(ORM)."""
DEFAULT_ETA = 2.0
"""The eta of ER-PRM with the Mistral data (arXiv 2412.11006; it is 10 with the DeepSeek data)."""

TINY_ETA = 1e-12
"""Magnitude of eta below which the value is the mean: they agree to within rounding, and dividing by eta
loses all digits."""


@dataclass(frozen=True)
class Value:
    """`log_mean_exp(eta)` of ER-PRM (arXiv 2412.11006, eq. 1), with its limits `mean` and `hit`.

    r = (1/eta) ln sum_i w_i exp(eta * outcome_i), weights w_i summing to 1. eta = 0 is the weighted mean,
    +inf the maximum (`hit`: 1 if any outcome is right), -inf the minimum. Monotone in every outcome and
    increasing in eta.
    """

    eta: float

    def __post_init__(self) -> None:
        if math.isnan(self.eta):
            raise ValueError("eta must be a number, 0 or an infinity; nan was given")

    def __call__(self, outcomes: Sequence[float], weights: Sequence[float] | None = None) -> float:
        """The value of at least one outcome.

        Weights must be non-negative and not all zero; any sum will do.
        """
        weights = [1.0] * len(outcomes) if weights is None else list(weights)
        if not outcomes or len(weights) != len(outcomes):
            raise ValueError(
                f"a value needs outcomes and as many weights; {len(outcomes)} and {len(weights)} were given"
            )
        total = math.fsum(weights)
        if min(weights) < 0 or not 0 < total < math.inf:
            raise ValueError("weights must be finite, non-negative and not all zero")
        pairs = [
            (weight / total, outcome) for weight, outcome in zip(weights, outcomes, strict=True) if weight > 0
        ]
        if math.isinf(self.eta):
            return (max if self.eta > 0 else min)(outcome for _, outcome in pairs)
        peak = max((outcome for _, outcome in pairs), key=lambda outcome: self.eta * outcome)
        if abs(self.eta) < TINY_ETA:
            return (
                math.fsum(weight * outcome for weight, outcome in zip(weights, outcomes, strict=True)) / total
            )
        # expm1 and log1p keep the digits that exp and log lose near eta = 0;
        # shifting by the peak keeps exp from overflowing
        excess = math.fsum(weight * math.expm1(self.eta * (outcome - peak)) for weight, outcome in pairs)
        if excess > -0.5:
            return peak + math.log1p(excess) / self.eta
        return (
            peak
            + math.log(math.fsum(weight * math.exp(self.eta * (outcome - peak)) for weight, outcome in pairs))
            / self.eta
        )

    def of_share(self, share: float) -> float:
        """The value of 0/1 outcomes of which `share` (in [0, 1]) are right."""
        return self((1.0, 0.0), (share, 1.0 - share))


mean = Value(0.0)
"""The share of right outcomes: EDU-PRM's label, Math-Shepherd's soft label."""
hit = Value(math.inf)
"""1 if any outcome is right: Math-Shepherd's hard label."""


def log_mean_exp(eta: float) -> Value:
    """ER-PRM's value: `log_mean_exp(2.0)([1] * 4 + [0] * 12)` is 0.477."""
    return Value(float(eta))


@dataclass(frozen=True, slots=True)
class Product:
    """A published label: where its outcomes come from, and which value sums them up."""

    plan: PlanName
    value: str
    source: str


PRODUCTS = {
    "edu": Product("leaves", "mean", "EDU-PRM, arXiv 2503.22233"),
    "er": Product("rollouts", "er", "ER-PRM, arXiv 2412.11006, eq. 1"),
    "shepherd-hard": Product("rollouts", "hit", "Math-Shepherd, arXiv 2312.08935, hard estimation"),
    "shepherd-soft": Product("rollouts", "mean", "Math-Shepherd, arXiv 2312.08935, soft estimation"),
    "omega": Product("bisect", "mean", "OmegaPRM, arXiv 2406.06592"),
    "orm": Product("rollouts", OUTCOME, "outcome reward model: the answer alone"),
}


def product_named(name: str) -> Product:
    """A published label by its name; unknown names list the known ones."""
    if name not in PRODUCTS:
        raise ValueError(f"method {name!r} is unknown; choose from {', '.join(PRODUCTS)}")
    return PRODUCTS[name]


def canonical_value(name: str, eta: float | None = None) -> str:
    """`mean`, `hit`, `outcome` or `er:ETA` for any accepted name.

    Accepted are those, `er` with `eta` (2 if it is None), and the names in `PRODUCTS`. ValueError if the name
    is unknown, or if an `eta` is given for a value that has none.
    """
    base = PRODUCTS[name].value if name in PRODUCTS else name
    kind, colon, number = base.partition(":")
    if kind == "er":
        if colon and eta is not None:
            raise ValueError(f"value {name!r} and eta {eta:g} both say what eta is; give one of them")
        try:
            found = float(number) if colon else DEFAULT_ETA if eta is None else float(eta)
        except ValueError:
            raise ValueError(
                f"value {name!r} has no number after the colon; write for example er:2"
            ) from None
        return f"er:{log_mean_exp(found).eta:g}"
    if base not in ("mean", "hit", OUTCOME):
        raise ValueError(
            f"value {name!r} is unknown; choose from mean, hit, outcome, er:ETA (for example er:2), "
            f"{', '.join(PRODUCTS)}"
        )
    if eta is not None:
        raise ValueError(f"value {name!r} has no eta; eta belongs to er")
    return base


def value_named(name: str, eta: float | None = None) -> Value:
    """The value of a name (see `canonical_value`); ValueError for `outcome`, which sums nothing up."""
    canonical = canonical_value(name, eta)
    if canonical == OUTCOME:
        raise ValueError("value outcome labels whole solutions and sums nothing up")
    if canonical in ("mean", "hit"):
        return mean if canonical == "mean" else hit
    return log_mean_exp(float(canonical.partition(":")[2]))
