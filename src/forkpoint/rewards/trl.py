"""A reward function for TRL 1.16: f(prompts, completions, completion_ids, **columns) -> list of floats.

`GRPOTrainer` takes it; TRL is not needed to import it. The share of caught completions is logged as
`prm_reward/caught`; if it rises, the policy is likely to be hacking the reward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from forkpoint.prms.config import PRM
from forkpoint.rewards.guards import RewardGuards
from forkpoint.rewards.reward import PRMReward
from forkpoint.row_files import as_text
from forkpoint.select import Aggregate

TRLReward = Callable[..., list[float | None]]


def prm_reward(
    prm: PRM,
    aggregate: Aggregate = "min",
    guards: RewardGuards = RewardGuards(),  # noqa: B008 (frozen)
    *,
    outcome_weight: float = 0.0,
    grader: str = "numeric",
    answer_column: str = "answer",
    question_column: str | None = None,
) -> TRLReward:
    """A reward function for `GRPOTrainer(reward_funcs=...)`: one float per completion, see `PRMReward`.

    The question that the PRM reads is the data set's `question_column`. By default it is the last user
    message of a conversational prompt, or a plain prompt as it is, including the template. If
    `outcome_weight` is above 0, the data set needs an `answer_column`; otherwise that column is not read.
    Prompts and completions may be plain or conversational.
    """
    reward = PRMReward(prm, aggregate, guards, outcome_weight, grader)

    def prm_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        questions = (
            [_of_row(row, question_of, prompt) for row, prompt in enumerate(prompts)]
            if question_column is None
            else _column(columns, question_column)
        )
        answers = _column(columns, answer_column) if outcome_weight > 0 else None
        texts = [_of_row(row, text_of, completion) for row, completion in enumerate(completions)]
        rewards = reward(questions, texts, answers)
        if rewards and "log_metric" in columns:
            columns["log_metric"](
                "prm_reward/caught", sum(item.caught is not None for item in rewards) / len(rewards)
            )
        return [item.value for item in rewards]

    return prm_reward


def _of_row(row: int, read: Callable[[Any], str], value: Any) -> str:
    """`read(value)`; whatever is neither a text nor a conversation is a ValueError that names the row."""
    try:
        return read(value)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"row {row} of the batch: {value!r:.60} cannot be read: {error}") from error


def question_of(prompt: Any) -> str:
    """The prompt, or the last user message of a conversation. ValueError if it has none."""
    if isinstance(prompt, str):
        return prompt
    said = [message["content"] for message in prompt if message["role"] == "user"]
    if not said:
        raise ValueError(
            "a conversational prompt without a user message has no question; name a question_column"
        )
    if said[-1] is None:
        raise ValueError("the last user message of a prompt has no content; name a question_column")
    return _content(said[-1])


def text_of(completion: Any) -> str:
    """The completion, or all assistant messages in it."""
    if isinstance(completion, str):
        return completion
    return "".join(
        _content(message.get("content")) for message in completion if message["role"] == "assistant"
    )


def _content(content: Any) -> str:
    """The text of a message, which may come in parts, and is missing if a tool is called."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part["type"] == "text")


def _column(columns: dict[str, Any], name: str) -> list[str]:
    if name not in columns:
        raise ValueError(
            f"the data set has no column {name!r}; "
            f"its columns here are {', '.join(sorted(columns)) or 'none'}"
        )
    return [
        as_text(item, f"row {idx} of the batch: column {name!r}") for idx, item in enumerate(columns[name])
    ]
