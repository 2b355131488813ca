"""The reward function that verl takes (0.9), by name: f(data_source, solution_str, ground_truth, extra_info, **reward_kwargs).

    reward.custom_reward_function.path=pkg://forkpoint.rewards.verl
    +reward.custom_reward_function.reward_kwargs.prm=http://localhost:8000

Needs no verl. Each process that rewards loads the PRM once, at the first solution; what its threads ask for is scored in
batches. With several such processes a served PRM (`forkpoint serve`) is there once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from forkpoint.prms.config import FamilyConfig
from forkpoint.rewards.guards import RewardGuards
from forkpoint.rewards.reward import PRMReward
from forkpoint.select import Aggregate

_rewards: dict[tuple[Any, ...], PRMReward] = {}
"""What this process has loaded, by its settings."""
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
    """`score` is the reward (see `PRMReward`); beside it verl logs `acc` (the answer is right), `prm` (the aggregate, 0 where
    there is none) and `caught` (1 where a guard struck).

    `prm` is a directory, a hub id, or the address of a `forkpoint serve`; `guards` and `family` are the fields of
    `RewardGuards` and `FamilyConfig`. verl gives no prompt to a reward function: the question is
    `extra_info[question_key]`, ValueError where it is missing. Other keywords, such as verl's own router, are not read.
    """
    if not extra_info or question_key not in extra_info:
        raise ValueError(
            f"extra_info of data source {data_source!r} has no {question_key!r}, and the PRM needs the question; add it to the data"
        )
    key = (prm, aggregate, outcome_weight, grader, _frozen(guards), _frozen(family), device)
    with _loading:
        if key not in _rewards:
            scorer = FamilyConfig(**dict(family or {})).load(prm, device)
            _rewards[key] = PRMReward(
                scorer, aggregate, RewardGuards(**dict(guards or {})), outcome_weight, grader
            )
    (reward,) = _rewards[key]([str(extra_info[question_key])], [solution_str], [str(ground_truth)])
    return {
        "score": reward.value,
        "acc": float(bool(reward.is_correct)),
        "prm": reward.score or 0.0,
        "caught": float(reward.caught is not None),
    }


def _frozen(fields: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((fields or {}).items()))
