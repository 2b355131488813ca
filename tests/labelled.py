"""Hand-made labelled solutions for tests of training and scoring."""

from __future__ import annotations

import random

from forkpoint.records import Label, LabelledSolution


def label(value: float) -> Label:
    return Label(value, round(4 * value), 4, 4.0, max(0.0, value - 0.2), min(1.0, value + 0.2))


def visible_errors(num_problems: int, seed: int = 0) -> list[LabelledSolution]:
    """Return solutions of 1 to 4 steps in which `z` marks a wrong step.

    Labels are 0 from the first wrong step on.
    """
    rng = random.Random(seed)
    solutions = []
    for problem_idx in range(num_problems):
        for _ in range(4):
            steps, labels, is_right = [], [], True
            for _ in range(rng.randint(1, 4)):
                is_wrong = rng.random() < 0.25
                is_right = is_right and not is_wrong
                steps.append("".join(rng.choice("abc") for _ in range(3)) + ("z" if is_wrong else "y") + "\n")
                labels.append(label(float(is_right)))
            solutions.append(
                LabelledSolution(f"p{problem_idx}", f"q{problem_idx}", tuple(steps), tuple(labels), is_right)
            )
    return solutions
