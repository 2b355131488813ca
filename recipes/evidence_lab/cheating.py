"""Right answers with a wrong step: how often they occur, and how PRMs score them.

Invariant: the lab oracle decides which step is wrong, exactly and for any cut; no model estimates anything
here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from forkpoint.estimates import bootstrap, bootstrap_seeds
from forkpoint.evaluation.first_errors import choose_threshold, first_error

from .lab import Lab, fields
from .settings import HT, VALID
from .units import Judged

SHOWN = ("edu", "edu-entropy", "edu-random", "soft", "hard", "er-2", "orm")
SHOWN_ELSEWHERE = ("edu", "edu-entropy", "soft", "er-2")


def cheating(lab: Lab) -> dict[str, Any]:
    """Return how often they occur and, for each PRM, the scores of first wrong steps and of right steps."""
    attempts = [item.attempts[: lab.scale.num_other_samples] for item in lab.stock.solutions(HT)]
    right = [[attempt for attempt in solutions if attempt.is_correct] for solutions in attempts]
    num_cheats = [sum(attempt.error_offset is not None for attempt in solutions) for solutions in right]
    shares = [num / len(solutions) for num, solutions in zip(num_cheats, right, strict=True) if solutions]
    rows = []
    for variant in SHOWN if lab.setting.is_first else SHOWN_ELSEWHERE:
        lab.judge(variant, HT)
        found = []
        for seed in lab.seeds:
            unit = lab.unit(variant, seed)
            valid = unit.judged(VALID, lab.num_solutions(VALID)) if lab.setting.is_first else None
            found.append(_of_judged(lab.judged(variant, seed, HT), valid))
        row: dict[str, Any] = {"variant": variant, "num_seeds": len(found)}
        for name in found[0]:
            values = np.array([item[name] for item in found])
            estimate = bootstrap_seeds(values[:, None]) if len(values) > 1 else bootstrap(values)
            row[name] = {key: value for key, value in fields(estimate).items() if key != "num_problems"}
        rows.append(row)
    counts = {"num_right_answers": sum(map(len, right)), "num_cheats": sum(num_cheats)}
    return {"share_of_right_answers": fields(bootstrap(shares)), **counts, "prms": rows}


def _of_judged(judged: Judged, valid: Judged | None) -> dict[str, float]:
    """Return means over all solutions of one PRM, with intervals over seeds."""
    right_steps: list[float] = []
    wrong_steps: list[float] = []
    cheat_steps: list[float] = []
    sound_minima: list[float] = []
    cheat_minima: list[float] = []
    for item, scores in judged.step_scores():
        for attempt, steps in zip(item.attempts, scores, strict=True):
            wrong = attempt.first_wrong_step(judged.cut)
            right_steps += list(steps if wrong < 0 else steps[:wrong])
            if wrong >= 0:
                (cheat_steps if attempt.is_correct else wrong_steps).append(steps[wrong])
            if attempt.is_correct:
                (sound_minima if wrong < 0 else cheat_minima).append(steps.min())
    found = {
        "right_step_score": _mean(right_steps),
        "first_wrong_step_score": _mean(wrong_steps),
        "first_wrong_step_score_of_cheats": _mean(cheat_steps),
        "auc_step": auc(right_steps, [*wrong_steps, *cheat_steps]),
        "auc_sound_against_cheat": auc(sound_minima, cheat_minima),
    }
    if valid is not None:
        threshold = choose_threshold(*_first_errors(valid))
        found["first_error_f1"] = first_error(*_first_errors(judged), threshold).f1
    return found


def _first_errors(judged: Judged) -> tuple[list[list[float]], list[int]]:
    scores: list[list[float]] = []
    truths: list[int] = []
    for item, solution_scores in judged.step_scores():
        scores += [list(map(float, steps)) for steps in solution_scores]
        truths += [attempt.first_wrong_step(judged.cut) for attempt in item.attempts]
    return scores, truths


def auc(high: list[float], low: list[float]) -> float:
    """Return the chance that one of `high` is above one of `low`, counting ties half; nan if one is empty."""
    if not high or not low:
        return float("nan")
    ordered = np.sort(np.asarray(low))
    values = np.asarray(high)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return float(below.mean() / (2 * len(ordered)))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
