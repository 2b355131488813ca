"""The questions of docs/explanations/evidence.md, one arm each: what is trained and scored, and the result.

Invariant: the result of an arm has rows (accuracies) and contrasts (paired differences), both with 95 %
intervals over problems and seeds, and facts of its own; nothing in it is typed by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from forkpoint.select import AGGREGATES

from .cheating import cheating
from .lab import Lab, Pick, best, weighted
from .label_quality import label_quality
from .ours import ours
from .raft_arm import raft_arm
from .settings import DENSE, HT, OTHER_HT, TREE, VALID
from .steering import steering
from .variants import TUNED

Result = dict[str, Any]
ROLLOUT_VALUES = ("soft", "hard", "er-2", "orm")


def stock(lab: Lab) -> Result:
    """Return the shared label runs and solutions."""
    lab.stock.labels("edu")
    lab.stock.solutions(HT)
    lab.stock.solutions(TREE)
    lab.stock.solutions(DENSE)
    lab.stock.labels("rollouts")
    if not lab.setting.is_first:
        return {}
    lab.stock.solutions(VALID)
    lab.stock.labels("omega")
    lab.stock.labels("tree-rollouts")
    for name in OTHER_HT:
        lab.stock.solutions(name)
    return {}


def tuning(lab: Lab) -> Result:
    """Tune the learning rates."""
    return {"tuned": [row for name in TUNED for row in lab.tuning(name)["rows"]]}


def compared(
    lab: Lab,
    variants: Sequence[str],
    reference: str,
    others: Sequence[tuple[str, str]] = (),
    is_wide: bool = False,
) -> Result:
    """Return best-of-N and weighted votes of every variant, and their differences from the reference."""
    for variant in variants:
        lab.judge(variant, HT, is_wide)
        lab.judge(variant, TREE)
    top = lab.num_solutions(HT, is_wide)
    common = lab.scale.num_other_samples
    sizes = {HT: [n for n in lab.sizes(HT) if n <= top], TREE: [n for n in lab.sizes(TREE) if n <= common]}
    rows = [
        lab.row(Pick(solutions, n, select))
        for solutions in (HT, TREE)
        for n in sizes[solutions]
        for select in ("majority", "oracle")
    ]
    contrasts = []
    for variant in variants:
        for solutions in (HT, TREE):
            picks = [make(variant, solutions, n) for n in sizes[solutions] for make in (best, weighted)]
            rows += [lab.row(pick) for pick in picks]
            contrasts += [lab.contrast(pick, Pick(solutions, pick.n, "majority")) for pick in picks]
    pairs = [(variant, reference) for variant in variants if variant != reference] + list(others)
    for left, right in pairs:
        for solutions in (HT, TREE):
            contrasts += [
                lab.contrast(make(left, solutions, n), make(right, solutions, n))
                for n in sizes[solutions]
                for make in (best, weighted)
            ]
    units = [lab.unit(variant, lab.seeds[0]) for variant in variants]
    labels = [
        {
            "variant": unit.variant.name,
            "num_problems": len(unit.problem_ids),
            "tokens": unit.label_tokens,
            "tokens_without_reuse": len(unit.problem_ids)
            * lab.stock.label_cost(unit.variant.source).without_reuse,
            "learning_rate": unit.learning_rate,
        }
        for unit in units
    ]
    return {"rows": rows, "contrasts": contrasts, "labels": labels}


def headline(lab: Lab) -> Result:
    return compared(lab, ["soft", "hard", "edu"], "soft", [("edu", "hard")])


def queries(lab: Lab) -> Result:
    """Compare EDU labels on fewer and on more queries."""
    variants = ["soft", "edu", "edu-large", "edu-25pct", "edu-10pct", "edu-2pct"]
    return compared(lab, variants, "soft")


def sampling(lab: Lab) -> Result:
    """Compare EDU trees with HT samples, at equal N and at equal tokens."""
    rows, contrasts = [], []
    trees, common = [TREE, DENSE], lab.scale.num_other_samples
    samples = [HT, *OTHER_HT]
    for solutions in (*trees, *samples):
        for n in lab.sizes(solutions):
            rows += [lab.row(Pick(solutions, n, select)) for select in ("majority", "oracle")]
            if n <= common or solutions in trees:
                rows += [lab.row(make("edu", solutions, n)) for make in (best, weighted)]
    for tree in trees:
        for ht in samples:
            for n in lab.sizes(ht):
                pairs = [(Pick(tree, n, select), Pick(ht, n, select)) for select in ("majority", "oracle")]
                if n <= common:
                    pairs += [(make("edu", tree, n), make("edu", ht, n)) for make in (best, weighted)]
                contrasts += [lab.contrast(left, right) for left, right in pairs]
    equal = [row for tree in trees for row in _equal_tokens(lab, tree, HT)]
    votes = [
        lab.contrast(weighted("edu", HT, n), best("edu", tree, n))
        for tree in trees
        for n in lab.sizes(HT)
        if n <= common
    ]
    return {"rows": rows, "contrasts": contrasts, "equal_tokens": equal, "votes_against_trees": votes}


def _equal_tokens(lab: Lab, tree: str, ht: str) -> list[Result]:
    """Return the largest tree that costs no more, for every N of samples."""
    found = []
    for n in (n for n in lab.sizes(ht) if n <= lab.scale.num_other_samples):
        budget = lab.plain(ht)[f"tokens|{n}"].mean()
        fitting = [size for size in lab.sizes(tree) if lab.plain(tree)[f"tokens|{size}"].mean() <= budget]
        if fitting:
            for make in (best, weighted):
                found.append(lab.contrast(make("edu", tree, fitting[-1]), make("edu", ht, n)))
    return found


def baselines(lab: Lab) -> Result:
    variants = [
        "edu",
        "shepherd-budget",
        "shepherd-soft-budget",
        "omega",
        "shepherd-on-edu",
        "edu-hit",
        "hard",
    ]
    return compared(lab, variants, "edu")


def values(lab: Lab) -> Result:
    return compared(lab, ROLLOUT_VALUES, "soft", [("er-2", "hard"), ("er-2", "orm")], is_wide=True)


def eta(lab: Lab) -> Result:
    names = [f"er-{eta:g}" for eta in (0.1, 1, 2, 5, 8, 10, 15)]
    return compared(lab, ["soft", *names, "hard"], "soft")


def rollouts(lab: Lab) -> Result:
    """Compare more and fewer completions per prefix, and EDU labels, which cost less than the fewest."""
    names = ["-k32", "-k8", "-k4"]
    variants = ["edu", *(f"{value}{name}" for value in ("soft", "er-2") for name in ("", *names))]
    return compared(
        lab, variants, "soft", [(left, f"soft{name}") for name in names for left in (f"er-2{name}", "edu")]
    )


def elsewhere(lab: Lab) -> Result:
    """Compare the papers' methods in another setting."""
    return compared(lab, ["soft", "er-2", "edu"], "soft", [("edu", "er-2")])


def segmentation(lab: Lab) -> Result:
    return compared(lab, ["edu", "edu-entropy", "edu-random"], "edu", [("edu-entropy", "edu-random")])


def head(lab: Lab) -> Result:
    return compared(lab, ["edu", "edu-tokens"], "edu")


def combinations(lab: Lab) -> Result:
    """Compare other labels of the same trees."""
    return compared(
        lab, ["edu", "edu-policy", "edu-er-2", "edu-hit", "edu-evidence", "edu-policy-large"], "edu"
    )


def crossed(lab: Lab) -> Result:
    """Compare one paper's value with the other's leaves."""
    return compared(
        lab, ["edu", "edu-er-2", "soft", "er-2"], "edu", [("edu-er-2", "soft"), ("edu-er-2", "er-2")]
    )


def own(lab: Lab) -> Result:
    """Compare labels from the samples alone: a step has the outcomes of the samples that begin with it."""
    return compared(lab, ["soft", "edu", "own", "edu-own"], "soft", [("edu-own", "edu"), ("own", "edu")])


def aggregates(lab: Lab) -> Result:
    """Compare aggregates of step scores; differences are from the minimum."""
    top = lab.scale.num_other_samples
    rows, contrasts = [], []
    for variant in ("edu", "soft", "er-2"):
        for how in AGGREGATES:
            picks = [
                Pick(solutions, top, select, variant, how)
                for solutions in (HT, TREE)
                for select in ("best", "weighted")
            ]
            rows += [lab.row(pick) for pick in picks]
            if how != "min":
                contrasts += [lab.contrast(pick, replace(pick, aggregate="min")) for pick in picks]
    return {"rows": rows, "contrasts": contrasts}


ARMS: dict[str, Callable[[Lab], Result]] = {
    "stock": stock,
    "tuning": tuning,
    "headline": headline,
    "queries": queries,
    "values": values,
    "segmentation": segmentation,
    "cheating": cheating,
    "head": head,
    "sampling": sampling,
    "baselines": baselines,
    "labels": label_quality,
    "combinations": combinations,
    "crossed": crossed,
    "own": own,
    "aggregates": aggregates,
    "ours": ours,
    "steering": steering,
    "rollouts": rollouts,
    "eta": eta,
    "raft": raft_arm,
    "elsewhere": elsewhere,
}
SETTINGS_OF: dict[str, tuple[str, ...]] = dict.fromkeys(ARMS, ("default",)) | {
    "stock": ("default", "hard", "double", "shuffle"),
    "elsewhere": ("hard", "double", "shuffle"),
    "crossed": ("default", "hard", "shuffle"),
    "ours": ("default", "hard", "double", "shuffle"),
    "cheating": ("default", "shuffle"),
}
"""The settings in which each arm runs by default."""
