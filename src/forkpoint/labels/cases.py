"""Solutions whose prefixes were completed: what labels of any value are derived from, without tokens."""

from __future__ import annotations

from dataclasses import dataclass

from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaves import final_label, tally_label
from forkpoint.records import LabelledSolution, Problem


@dataclass(frozen=True, slots=True)
class RolledOutSolution:
    """A solution, its steps, and whether the completions of each prefix are right."""

    problem: Problem
    steps: tuple[str, ...]
    outcomes: tuple[tuple[bool, ...], ...]
    """Per step except the last, whose outcome is `is_correct`; at least one outcome each once the run is
    complete."""
    is_correct: bool

    def labelled(self, config: LabelConfig, num_rollouts: int | None = None) -> LabelledSolution:
        """The solution with a label per step, from the first `num_rollouts` outcomes of each prefix (or all).

        With the value `outcome` the solution is one step.
        """
        steps, labels = self.steps, []
        if config.step_segmentation == "solution":
            steps = ("".join(steps),)
        else:
            value = config.step_value
            for outcomes in self.outcomes:
                taken = outcomes[:num_rollouts]
                labels.append(tally_label(sum(taken), len(taken), value))
        return LabelledSolution(
            self.problem.id,
            self.problem.question,
            steps,
            (*labels, final_label(self.is_correct)),
            self.is_correct,
        )
