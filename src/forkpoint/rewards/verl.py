"""A reward function for verl 0.9: f(data_source, solution_str, ground_truth, extra_info, **reward_kwargs).

    reward.custom_reward_function.path=pkg://forkpoint.rewards.verl
    +reward.custom_reward_function.reward_kwargs.prm=http://localhost:8000

verl takes it by name. Does not need verl. Each reward process loads the PRM once, at the first solution, and
scores the requests of its threads in batches. If there are several such processes, a served PRM (`forkpoint
serve`) is loaded only once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from forkpoint.prms.config import FamilyConfig
from forkpoint.rewards.guards import RewardGuards
from forkpoint.rewards.reward import PRMReward
from forkpoint.row_files import as_text
from forkpoint.select import Aggregate

_rewards: dict[tuple[Any, ...], PRMReward] = {}
"""The rewards that this process has loaded, by their settings."""
_loading = threading.Lock()


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    prm: str,
    aggregate: Aggregate = "min",
    outcome_weight: float = 0.0,
    grader: str = "numeric",
    question_key: str = "question",
    guards: Mapping[str, Any] | None = None,
    family: Mapping[str, Any] | None = None,
    device: str = "auto",
    **_: Any,
) -> dict[str, float]:
    """The reward of a solution as `score` (see `PRMReward`), and three numbers that verl logs.

    They are `acc` (whether the answer is right), `prm` (the aggregate, or 0 without one) and `caught` (1 if a
    guard caught the solution).
    `prm` is a directory, a hub id, or the address of a `forkpoint serve`; `guards` and `family` are the
    fields of `RewardGuards` and `FamilyConfig`. verl passes no prompt to a reward function: the question is
    `extra_info[question_key]`, with ValueError if it is missing. ValueError too if the question or the right
    answer is neither a text nor a finite number. Other keywords, such as verl's own router,
    are ignored.
    """
    if not extra_info or question_key not in extra_info:
        raise ValueError(
            f"extra_info of data source {data_source!r} has no {question_key!r}, "
            "and the PRM needs the question; add it to the data"
        )
    key = (prm, aggregate, outcome_weight, grader, _frozen(guards), _frozen(family), device)
    with _loading:
        if key not in _rewards:
            scorer = FamilyConfig(**dict(family or {})).load(prm, device)
            _rewards[key] = PRMReward(
                scorer, aggregate, RewardGuards(**dict(guards or {})), outcome_weight, grader
            )
    place = f"of a row of data source {data_source!r}"
    question = as_text(extra_info[question_key], f"extra_info[{question_key!r}] {place}")
    # without outcomes in the reward, a set may have no right answers
    has_answer = outcome_weight > 0 or ground_truth is not None
    answers = [as_text(ground_truth, f"ground_truth {place}")] if has_answer else None
    (reward,) = _rewards[key]([question], [solution_str], answers)
    return {
        "score": reward.value,
        "acc": float(bool(reward.is_correct)),
        "prm": reward.score or 0.0,
        "caught": float(reward.caught is not None),
    }


def _frozen(fields: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((fields or {}).items()))
