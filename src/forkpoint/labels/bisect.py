"""The plan `bisect`: OmegaPRM's search for first errors (arXiv 2406.06592), over many problems at once.

The search of one problem is in `omega.py`.

The search of a problem asks for one prefix at a time. The prefixes that all running searches ask for are
rolled out together, and when a search is done, that of the next problem begins. The rollouts are journaled; a
search that was interrupted is fed from the journal until it is back where it stopped.
Invariant: when a search is done, one row holds the problem's solutions with the outcomes of every step whose
prefix was evaluated; labels of any value are derived from these rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any, ClassVar

from forkpoint.checks import check_above, check_within
from forkpoint.content_key import content_key
from forkpoint.labels.cases import RolledOutSolution
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.omega import OmegaSearch
from forkpoint.labels.omega_records import BisectConfig, GradedPath
from forkpoint.labels.plan import Collected, LabelStage
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.values import PlanName
from forkpoint.policies.context import fits_context
from forkpoint.records import LabelledSolution, Problem
from forkpoint.runs import Run
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.steps import AnchorRule

SEARCHES_AT_A_TIME = 512
"""Problems whose rollouts are held in memory with their tokens: enough to fill the batches of a few GPUs."""


@dataclass(frozen=True)
class BisectPlan:
    """How first errors are searched for."""

    name: ClassVar[PlanName] = "bisect"
    grows_trees: ClassVar[bool] = False
    has_seed: ClassVar[bool] = True
    keeps_cases: ClassVar[bool] = True

    search: BisectConfig = field(default_factory=BisectConfig)
    rollout_temperature: float = 1.0
    """Temperature of the rollouts (not stated in arXiv 2406.06592); at 1.0 outcomes are samples of the policy
    itself."""
    rollout_top_p: float = 1.0
    """Probability mass of the tokens that rollouts are sampled from."""

    def __post_init__(self) -> None:
        check_above(0, rollout_temperature=self.rollout_temperature)  # at 0 all rollouts are the same
        check_within("(0, 1]", rollout_top_p=self.rollout_top_p)

    def rollouts(self, max_tokens: int, seed: int) -> RolloutConfig:
        """How rollouts are drawn."""
        return RolloutConfig(
            self.search.num_rollouts, self.rollout_temperature, self.rollout_top_p, max_tokens, seed
        )

    def identity(self, labels: LabelConfig, rule: AnchorRule) -> dict[str, Any]:
        """What the rows of a run depend on: the search and its rollouts, neither `labels` nor `rule`."""
        return self._settings()

    def _settings(self) -> dict[str, Any]:
        return {
            "plan": self.name,
            "search": asdict(self.search),
            "rollouts": {"temperature": self.rollout_temperature, "top_p": self.rollout_top_p},
            "segmentation": self.search.segmentation,
            "rule": None,
        }

    def collect(self, stage: LabelStage) -> Collected:
        """Search every problem that fits the policy's context."""
        config = self.rollouts(stage.tree.max_tokens, stage.sampling.seed)
        fitting = [problem for problem in stage.problems if fits_context(stage.policy, problem)]
        identity = content_key(
            {
                "searches": self._settings(),
                "policy": stage.policy.name,
                "seed": config.seed,
                "max_tokens": config.max_tokens,
            }
        )
        keys = [content_key([identity, asdict(problem)]) for problem in fitting]
        waiting = deque(zip(keys, fitting, strict=True))
        searches: list[tuple[str, Problem, OmegaSearch]] = []
        rows: dict[str, dict[str, Any]] = {}
        num_written = 0
        while waiting or searches:
            while waiting and len(searches) < SEARCHES_AT_A_TIME:
                searches.append((*waiting.popleft(), OmegaSearch(self.search)))
            _advance(stage, [(problem, search) for _, problem, search in searches], config)
            rows |= {key: _row(problem, search) for key, problem, search in searches if not search.needs()}
            searches = [item for item in searches if item[2].needs()]
            # rows lie in the order of the problems
            ready = list(takewhile(rows.__contains__, keys[num_written:]))
            stage.run.append((key, rows.pop(key)) for key in ready)
            stage.run.keep_order(ready)
            num_written += len(ready)
            stage.sampling.on_round(len(keys) - len(waiting) - len(searches), len(keys))
        return Collected(keys)

    def cases(
        self, run: Run, keys: Sequence[str] | None = None, store: RolloutStore | None = None
    ) -> Iterator[RolledOutSolution]:
        """Every solution of the searches, cut where a prefix was evaluated.

        A step whose prefix was not evaluated is joined to the next one that was.
        """
        for row in run.rows(keys):
            if row["kind"] == "search":
                problem = Problem(**row["problem"])
                yield from (_case(problem, path) for path in row["paths"])

    def labels(
        self,
        run: Run,
        cases: Iterable[RolledOutSolution],
        config: LabelConfig,
        num_rollouts: int | None = None,
    ) -> Iterator[LabelledSolution]:
        """Every solution, each step labelled from all rollouts of its prefix, whatever `num_rollouts` is.

        ValueError if the steps are asked for in another segmentation than they were searched in.
        """
        if (
            config.segmentation not in (run.config["segmentation"], "newline")
            or config.weighting != "uniform"
        ):
            raise ValueError(
                "bisection labels the steps that it searched, and its rollouts count once each; "
                "leave segmentation and weighting"
            )
        for case in cases:
            yield case.labelled(config)


def _advance(
    stage: LabelStage, searches: Sequence[tuple[Problem, OmegaSearch]], config: RolloutConfig
) -> None:
    """Roll out the prefixes that the searches need next, all together, and feed them."""
    asked = [(problem, search, need) for problem, search in searches for need in search.needs()]
    items = [
        (Prefix(problem, need.prefix_ids, "".join(need.prefix_texts)), range(need.num_rollouts))
        for problem, _, need in asked
    ]
    stage.roll_out(items, config, keeps_tokens=True, shows_progress=False)
    for (_, search, _), (prefix, span) in zip(asked, items, strict=True):
        search.feed([stage.store.of(prefix)[: len(span)]])


def _row(problem: Problem, search: OmegaSearch) -> dict[str, Any]:
    distinct: dict[tuple[int, ...], GradedPath] = {}
    for path in search.paths():
        first = distinct.setdefault(path.token_ids, path)
        if first.first_error_idx is None and path.first_error_idx is not None:
            distinct[path.token_ids] = path
    paths = [
        {
            "steps": list(path.steps),
            "outcomes": [
                None if outcomes is None else list(map(int, outcomes)) for outcomes in path.outcomes
            ],
            "first_error": path.first_error_idx,
        }
        for path in distinct.values()
    ]
    return {
        "kind": "search",
        "problem": asdict(problem),
        "num_searches": len(search.searches),
        "paths": paths,
    }


def _case(problem: Problem, path: dict[str, Any]) -> RolledOutSolution:
    steps: list[str] = []
    evaluated: list[tuple[bool, ...]] = []
    text = ""
    for step, outcomes in zip(path["steps"][:-1], path["outcomes"][:-1], strict=True):
        text += step
        if outcomes is not None:
            steps.append(text)
            evaluated.append(tuple(map(bool, outcomes)))
            text = ""
    steps.append(text + path["steps"][-1])
    return RolledOutSolution(problem, tuple(steps), tuple(evaluated), path["outcomes"][-1] == [1])
