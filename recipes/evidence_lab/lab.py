"""A setting with its stock, PRMs and learning rates, to which the questions are put."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.estimates import Estimate, bootstrap_seeds

from .settings import VALID, Scale, Setting
from .stock import Stock, patiently, write_json
from .units import Floats, Judged, Unit, plain, sizes_to
from .variants import LEARNING_RATES, VARIANTS

TUNING_SEED = 100
"""The tuning seed, which is none of the reported seeds."""


@dataclass(frozen=True)
class Pick:
    """A way to get one answer per problem: the solutions, the PRM (if any), and the selection rule."""

    solutions: str
    n: int
    select: str
    variant: str | None = None
    aggregate: str | None = None

    @property
    def name(self) -> str:
        return " ".join(
            str(part) for part in (self.variant, self.solutions, self.select, self.aggregate, self.n) if part
        )


def best(variant: str, solutions: str, n: int) -> Pick:
    return Pick(solutions, n, "best", variant, "min")


def weighted(variant: str, solutions: str, n: int) -> Pick:
    return Pick(solutions, n, "weighted", variant, "min")


class Lab:
    """One setting with some training seeds."""

    def __init__(
        self, setting: Setting, scale: Scale, out: Path, seeds: Sequence[int], say: Callable[[str], None]
    ) -> None:
        self.setting, self.scale, self.seeds, self.say = setting, scale, list(seeds), say
        self.directory = out / setting.name
        self._out = out
        self.stock = Stock(setting, scale, out)
        self._judged: dict[tuple[str, int, str, int], dict[str, Any]] = {}
        self._plain: dict[str, dict[str, Floats]] = {}

    def num_solutions(self, solutions: str, is_wide: bool = False) -> int:
        """Return how many solutions are used: all if requested, else those that every variant scores."""
        return self.stock.num_solutions(solutions) if is_wide else self.scale.num_other_samples

    def unit(self, variant: str, seed: int, learning_rate: float | None = None) -> Unit:
        directory = self.directory / "units" / f"{variant}-seed{seed}"
        if learning_rate is not None:
            return Unit(
                self.stock,
                VARIANTS[variant],
                seed,
                learning_rate,
                self.directory / "tuning" / f"{variant}-{learning_rate:g}",
            )
        return Unit(self.stock, VARIANTS[variant], seed, self.learning_rate(variant), directory)

    def judge(self, variant: str, solutions: str, is_wide: bool = False) -> None:
        """Train the PRMs of the variant and let them score solutions."""
        common = self.scale.num_other_samples
        for seed in self.seeds:
            for num in sorted({common, self.num_solutions(solutions, is_wide)}, reverse=True):
                if (variant, seed, solutions, num) not in self._judged:
                    self.say(f"{self.setting.name}: {variant}, seed {seed}, {solutions}, {num}")
                    self._judged[variant, seed, solutions, num] = (
                        self.unit(variant, seed).judged(solutions, num).arrays
                    )

    def judged(self, variant: str, seed: int, solutions: str) -> Judged:
        """Return the step scores of the solutions that every variant scores."""
        return self.unit(variant, seed).judged(solutions, self.num_solutions(solutions))

    def accuracy(self, pick: Pick) -> Floats:
        """Return, as [S, P], whether (or how often) the pick is right; S is 1 if no PRM is used."""
        if pick.variant is None:
            return self.plain(pick.solutions)[f"{pick.select}||{pick.n}"][None]
        is_wide = pick.n > self.scale.num_other_samples
        self.judge(pick.variant, pick.solutions, is_wide)
        num, name = self.num_solutions(pick.solutions, is_wide), f"{pick.select}|{pick.aggregate}|{pick.n}"
        return np.stack([self._judged[pick.variant, seed, pick.solutions, num][name] for seed in self.seeds])

    def plain(self, solutions: str) -> dict[str, Floats]:
        """Return votes, oracle and tokens."""
        if solutions not in self._plain:
            solved, common = self.stock.solutions(solutions), self.scale.num_other_samples
            found = plain(solved, self.stock.num_solutions(solutions), "-ht-" in solutions)
            # up to this number all picks use the same solutions, with or without a PRM
            self._plain[solutions] = found | plain(solved, common, "-ht-" in solutions)
        return self._plain[solutions]

    def row(self, pick: Pick) -> dict[str, Any]:
        """Return the accuracy of a pick, with its interval over problems and seeds, and its tokens."""
        values = self.accuracy(pick)
        return {
            "variant": pick.variant, "solutions": pick.solutions, "select": pick.select,
            "aggregate": pick.aggregate, "n": pick.n,
            **fields(bootstrap_seeds(values)), "num_seeds": len(values),
            "tokens": self.tokens(pick),
            "tokens_without_reuse": float(self.plain(pick.solutions)[f"path_tokens|{pick.n}"].mean()),
        }  # fmt: skip

    def contrast(self, left: Pick, right: Pick) -> dict[str, Any]:
        """Return left minus right, paired by problem, and by seed if both have seeds."""
        ours, theirs = self.accuracy(left), self.accuracy(right)
        return {
            "left": left.name, "right": right.name, **fields(bootstrap_seeds(ours - theirs)),
            "num_seeds": max(len(ours), len(theirs)), "token_ratio": self.tokens(left) / self.tokens(right),
        }  # fmt: skip

    def tokens(self, pick: Pick) -> float:
        """Return the sampled tokens per problem, counting a shared prefix once."""
        return float(self.plain(pick.solutions)[f"tokens|{pick.n}"].mean())

    def by_seed(
        self, what: str, names: Iterable[str], make: Callable[[int, str], dict[str, Floats]]
    ) -> dict[str, dict[str, list[Floats]]]:
        """Return the results of `make` for every seed, cached by name and quantity."""
        found: dict[str, dict[str, list[Floats]]] = {name: {} for name in names}
        for seed in self.seeds:
            for name, by_quantity in found.items():
                self.say(f"{what}: {name}, seed {seed}")
                for quantity, values in patiently(partial(make, seed, name)).items():
                    by_quantity.setdefault(quantity, []).append(values)
        return found

    def learning_rate(self, variant: str) -> float:
        """Return the learning rate chosen for the variant, or for the one that it is tuned as."""
        rate: float = self.tuning(VARIANTS[variant].tuned_as or variant)["learning_rate"]
        return rate

    def tuning(self, name: str) -> dict[str, Any]:
        """Return the best learning rate of a variant on valid problems, and the accuracy at every rate.

        One separate seed is used. Rates are tuned in the first setting; the others use them.
        """
        path = self._out / "default" / "tuning" / f"{name}.json"
        if not path.exists():
            found, num = {}, self.scale.num_other_samples
            for rate in LEARNING_RATES:
                self.say(f"tuning: {name}, learning rate {rate:g}")
                values = self.unit(name, TUNING_SEED, rate).judged(VALID, num).accuracy("best", "min", num)
                found[rate] = fields(bootstrap_seeds(values[None]))
            chosen = max(found, key=lambda rate: found[rate]["mean"])
            rows = [{"variant": name, "learning_rate": rate, **row} for rate, row in found.items()]
            write_json(path, {"learning_rate": chosen, "rows": rows})
        found_there: dict[str, Any] = json.loads(path.read_text())
        return found_there

    def sizes(self, solutions: str) -> list[int]:
        """Return the N of curves, from 4 on if there are that many."""
        found = sizes_to(self.stock.num_solutions(solutions))
        return [n for n in found if n >= 4] or found[-1:]


def fields(estimate: Estimate) -> dict[str, Any]:
    return {
        "mean": estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "num_problems": estimate.num_problems,
    }
