"""Rewards from a PRM: closed forms over a table of scores, guards, and the two libraries that call them."""

from __future__ import annotations

import asyncio
import math
import textwrap
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from checkpoints import make_model, make_tokenizer
from forkpoint.errors import LayoutError
from forkpoint.policies import LAB_POLICY
from forkpoint.prms.layout import PRMFormat
from forkpoint.problems import load_problems
from forkpoint.rewards import PRMReward, Reward, RewardGuards, prm_reward
from forkpoint.rewards.guards import repeated_share
from forkpoint.rewards.trl import question_of, text_of
from forkpoint.rewards.verl import compute_score

needs_lab = pytest.mark.skipif(
    not (LAB_POLICY / "config.json").exists(), reason="the lab policy is not part of this installation"
)


class TablePRM:
    """Scores lines by a table (.5 for others), refuses steps with `unreadable`, and remembers its batches."""

    name = "table"

    def __init__(self, table: dict[str, float], segmentation: Any = "newline") -> None:
        self.table, self.format = table, PRMFormat(segmentation=segmentation)
        self.batches: list[list[tuple[str, tuple[str, ...]]]] = []
        self.is_asked, self.may_score = threading.Event(), threading.Event()
        self.may_score.set()

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        self.is_asked.set()
        assert self.may_score.wait(30)
        self.batches.append(
            [(question, tuple(solution)) for question, solution in zip(questions, steps, strict=True)]
        )
        if any("unreadable" in step for solution in steps for step in solution):
            raise LayoutError("more than max_length")
        return [[self.table.get(step, 0.5) for step in solution] for solution in steps]


TABLE = {"a\n": 0.8, "b\n": 0.5, "7\n": 0.9}
TEXT = "a\nb\n7\n"


@pytest.mark.parametrize(("how", "value"), [("min", 0.5), ("prod", 0.36), ("mean", 2.2 / 3), ("last", 0.9)])
def test_the_reward_is_the_aggregate_of_the_step_scores(how: Any, value: float) -> None:
    (reward,) = PRMReward(TablePRM(TABLE), how)(["?"], [TEXT])
    assert reward == Reward(pytest.approx(value), pytest.approx(value), None, None)  # type: ignore[arg-type]


def test_the_minimum_does_not_pay_for_more_steps() -> None:
    reward = PRMReward(TablePRM({f"step {idx}\n": 0.6 for idx in range(50)}))
    texts = ["".join(f"step {idx}\n" for idx in range(num)) for num in (1, 5, 50)]
    assert [item.value for item in reward(["?"] * 3, texts)] == [0.6] * 3


@pytest.mark.parametrize(
    ("weight", "right", "wrong"), [(0.0, 0.5, 0.5), (0.25, 0.625, 0.375), (1.0, 1.0, 0.0)]
)
def test_outcomes_are_mixed_in_by_weight(weight: float, right: float, wrong: float) -> None:
    rewards = PRMReward(TablePRM(TABLE), outcome_weight=weight)(["?", "?"], [TEXT, TEXT], ["7", "8"])
    assert [item.value for item in rewards] == pytest.approx([right, wrong])
    assert [item.is_correct for item in rewards] == [True, False]


def test_a_prm_of_solutions_reads_the_whole_text_and_one_of_anchors_is_refused() -> None:
    prm = TablePRM({TEXT: 0.7}, "solution")
    assert PRMReward(prm)(["?"], [TEXT])[0].value == 0.7
    with pytest.raises(ValueError, match="entropy steps, which cannot be told from a text"):
        PRMReward(TablePRM({}, "entropy"))


# guards


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("", "empty"),
        (" \n\n", "empty"),
        ("a\n", "too few steps"),
        ("".join(f"{idx}\n" for idx in range(11)), "too many steps"),
        ("a\nb\na\n a \nb\n", "repeated steps"),
        ("one two one two one two one two\nend\n", "repeated words"),
        ("a\nunreadable\n", "unreadable"),
        (TEXT, None),
    ],
)
def test_every_guard_strikes_and_gives_the_penalty(text: str, caught: Any) -> None:
    guards = RewardGuards(
        min_steps=2, max_steps=10, max_repeated_steps=0.5, max_repeated_words=0.5, num_words=2, penalty=-1.0
    )
    (reward,) = PRMReward(TablePRM(TABLE), guards=guards, outcome_weight=0.5)(["?"], [text], ["7"])
    assert reward.caught == caught
    if caught:
        assert (reward.value, reward.score) == (-1.0, None)
    else:
        assert reward.value == 0.75


def test_what_is_caught_is_punished_even_if_it_is_right() -> None:
    (reward,) = PRMReward(TablePRM({}), outcome_weight=1.0)(["?"], ["7\n" * 10], ["7"])
    assert (reward.value, reward.is_correct, reward.caught) == (0.0, True, "repeated steps")


def test_a_share_at_its_limit_is_allowed() -> None:
    assert repeated_share("aabb") == 0.5 and repeated_share("abcd") == 0.0 and repeated_share("") == 0.0
    assert RewardGuards(max_repeated_steps=0.5).catch(("a\n", "a\n", "b\n", "b\n")) is None
    assert RewardGuards(max_repeated_steps=0.49).catch(("a\n", "a\n", "b\n", "b\n")) == "repeated steps"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_steps": 3, "max_steps": 2}, "at most max_steps; 3 and 2"),
        ({"max_repeated_steps": 1.5}, r"max_repeated_steps must be in \[0, 1\]; 1.5"),
        ({"penalty": math.nan}, "penalty must be finite"),
    ],
)
def test_guards_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardGuards(**changes)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="outcome_weight must be in"):
        PRMReward(TablePRM({}), outcome_weight=2.0)
    with pytest.raises(ValueError, match="aggregate 'sum' is unknown"):
        PRMReward(TablePRM({}), "sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no right answers to grade by"):
        PRMReward(TablePRM({}), outcome_weight=0.1)(["?"], [TEXT])


# batches and threads


def test_a_call_is_one_batch_without_what_guards_have_caught() -> None:
    prm = TablePRM(TABLE)
    PRMReward(prm)(["1", "2", "3"], ["a\n", "", "b\n"])
    assert prm.batches == [[("1", ("a\n",)), ("3", ("b\n",))]]


def test_one_unreadable_solution_costs_nobody_else_the_score() -> None:
    prm = TablePRM({f"{idx}\n": idx / 10 for idx in range(8)})
    texts = [f"{idx}\n" for idx in range(8)]
    texts[5] = "unreadable\n"
    values = [item.value for item in PRMReward(prm)(["?"] * 8, texts)]
    assert values == [idx / 10 if idx != 5 else 0.0 for idx in range(8)]
    assert len(prm.batches) == 7  # 8, then 4 + 4, 2 + 2, 1 + 1: halved until it is found


def test_what_threads_ask_for_meanwhile_is_one_batch_and_everyone_gets_their_own() -> None:
    prm = TablePRM({f"{idx}\n": idx / 100 for idx in range(40)})
    prm.may_score.clear()
    reward = PRMReward(prm)
    with ThreadPoolExecutor(16) as threads:
        asked = [threads.submit(reward, ["?"], ["0\n"])]
        assert prm.is_asked.wait(30)
        asked += [threads.submit(reward, ["?"], [f"{idx}\n"]) for idx in range(1, 16)]
        deadline_s = time.monotonic() + 30
        while len(reward._scorer._waiting) < 15 and time.monotonic() < deadline_s:
            time.sleep(0.001)
        prm.may_score.set()
        assert [future.result()[0].value for future in asked] == [idx / 100 for idx in range(16)]
    assert [len(batch) for batch in prm.batches] == [1, 15]


def test_an_error_of_the_prm_reaches_all_who_wait_and_the_next_batch_is_scored() -> None:
    prm = TablePRM({"a\n": 2.0})
    reward = PRMReward(prm)
    with pytest.raises(ValueError, match=r"scorer 'table' gave the scores \[2.0\] for 1 steps"):
        reward(["?"], ["a\n"])
    assert reward(["?"], ["b\n"])[0].value == 0.5


def test_the_example_of_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[1] / "docs" / "how-to" / "rl_rewards.md"
    code, printed = page.read_text().split("## By hand")[1].split("\nprints\n")
    exec(compile(textwrap.dedent(code), page.name, "exec"), {})
    assert capsys.readouterr().out.strip() == printed.strip()


# TRL


def test_trl_prompts_and_completions_are_plain_or_conversational() -> None:
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "2 and 3?"}]},
    ]
    assert question_of("2 and 3?\n") == "2 and 3?\n" and question_of(chat) == "2 and 3?"
    said = [
        {"role": "assistant", "content": "a\n"},
        {"role": "tool", "content": "x"},
        {"role": "assistant", "content": "b\n"},
    ]
    assert text_of("a\nb\n") == text_of(said) == "a\nb\n"
    assert text_of([{"role": "assistant", "content": None, "tool_calls": []}]) == ""
    with pytest.raises(ValueError, match="name a question_column"):
        question_of(chat[:1])
    prm = TablePRM(TABLE)
    plain = prm_reward(prm)(prompts=["?"], completions=[TEXT], completion_ids=[[1]])
    assert (
        plain
        == prm_reward(prm)(
            prompts=[chat], completions=[[{"role": "assistant", "content": TEXT}]], completion_ids=[[1]]
        )
        == [0.5]
    )
    assert prm.batches[0][0][0] == "?" and prm.batches[1][0][0] == "2 and 3?"


MISSING = [None, math.nan, ["7"], {"answer": "7"}, True]
BOXED = {value: f"so it is \\boxed{{{value}}}\n" for value in map(str, MISSING)}


@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_a_missing_answer_is_an_error_with_its_row_and_never_a_text_that_earns_a_reward(missing: Any) -> None:
    text = BOXED[str(missing)]
    reward = PRMReward(TablePRM({}), outcome_weight=1.0, grader="exact")
    with pytest.raises(ValueError, match="the answer of row 1 must be a string"):
        reward(["?", "?"], [text, text], ["7", missing])
    with pytest.raises(ValueError, match="the question of row 1 must be a string"):
        reward(["?", missing], [text, text], ["7", "7"])
    function = prm_reward(TablePRM({}), outcome_weight=1.0, question_column="question")
    columns = {"question": ["?", "?"], "answer": ["7", "7"]}
    for column in columns:
        with pytest.raises(ValueError, match=f"row 1 of the batch: column '{column}' must hold a string or"):
            function(prompts=["?"] * 2, completions=[text] * 2, **columns | {column: ["7", missing]})


@pytest.mark.parametrize("missing", [None, math.nan, 7, [{"role": "user", "content": None}]], ids=str)
def test_a_prompt_or_completion_that_is_missing_is_an_error_with_its_row(missing: Any) -> None:
    function = prm_reward(TablePRM({}))
    with pytest.raises(ValueError, match="row 1 of the batch"):
        function(prompts=["?", missing], completions=[TEXT, TEXT])
    if not isinstance(missing, list):
        with pytest.raises(ValueError, match="row 1 of the batch"):
            function(prompts=["?", "?"], completions=[TEXT, missing])


@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_verl_gets_no_reward_for_a_missing_answer(missing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forkpoint.prms.config.FamilyConfig.load", lambda *_: TablePRM({}))
    settings: dict[str, Any] = {"prm": f"table {missing}", "grader": "exact", "outcome_weight": 1.0}
    assert compute_score("set", "\\boxed{7}\n", 7, {"question": "?"}, **settings)["score"] == 1.0
    with pytest.raises(ValueError, match="ground_truth of a row of data source 'set' must hold a string or"):
        compute_score("set", BOXED[str(missing)], missing, {"question": "?"}, **settings)
    with pytest.raises(ValueError, match=r"extra_info\['question'\] of a row of data source 'set' must hold"):
        compute_score("set", TEXT, "7", {"question": missing}, **settings)


def test_trl_columns_give_question_and_answer_and_a_missing_one_is_named() -> None:
    prm = TablePRM(TABLE)
    function = prm_reward(prm, outcome_weight=0.5, answer_column="gold", question_column="problem")
    caught: list[tuple[str, float]] = []
    columns: dict[str, Any] = {
        "problem": ["one", "two"],
        "gold": [7, 8],
        "log_metric": lambda *item: caught.append(item),
    }
    assert function(prompts=["p", "p"], completions=[TEXT, ""], completion_ids=[[1], [2]], **columns) == [
        0.75,
        0.0,
    ]
    assert prm.batches == [[("one", ("a\n", "b\n", "7\n"))]] and caught == [("prm_reward/caught", 0.5)]
    with pytest.raises(ValueError, match="no column 'gold'; its columns here are answer, problem"):
        function(prompts=["p"], completions=[TEXT], problem=["?"], answer=["7"])


@pytest.fixture(scope="module")
def prm_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random PRM, with its own tokenizer."""
    directory = tmp_path_factory.mktemp("prm")
    make_model("qwen2", max_position_embeddings=512).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    PRMFormat(tag=";", max_length=512).save(directory)
    return directory


@needs_lab
def test_grpo_of_trl_trains_on_the_reward(prm_directory: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="needs trl: pip install trl==1.16.0")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    from forkpoint.checkpoint import load_tokenizer
    from forkpoint.prms import load_prm

    problems = load_problems("lab:train?num=4")
    rows = [
        {"prompt": f"{problem.question}\n", "question": problem.question, "answer": problem.answer}
        for problem in problems
    ]
    tokenizer = load_tokenizer(LAB_POLICY)
    model = AutoModelForCausalLM.from_pretrained(LAB_POLICY)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = trl.GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=prm_reward(
            load_prm(prm_directory, "cpu"), outcome_weight=0.5, question_column="question"
        ),
        train_dataset=Dataset.from_list(rows),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=2,
            per_device_train_batch_size=4, num_generations=4, max_completion_length=64,
            learning_rate=1e-3, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
        ),
    )  # fmt: skip
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(logged) == 2
    assert all(0 <= entry["reward"] <= 1 and 0 <= entry["prm_reward/caught"] <= 1 for entry in logged)
    assert any(not parameter.equal(before[name]) for name, parameter in trainer.model.named_parameters())


# verl


def test_verl_s_function_is_the_same_reward_and_names_what_is_missing(prm_directory: Path) -> None:
    from forkpoint.prms import load_prm

    settings: dict[str, Any] = {
        "prm": str(prm_directory),
        "outcome_weight": 0.25,
        "device": "cpu",
        "guards": {"penalty": -1.0},
    }
    scores = compute_score("lab", TEXT, "7", {"question": "?"}, **settings)
    (reward,) = PRMReward(load_prm(prm_directory, "cpu"), outcome_weight=0.25)(["?"], [TEXT], ["7"])
    assert scores == {"score": reward.value, "prm": reward.score, "acc": 1.0, "caught": 0.0}
    assert compute_score("lab", "", "7", {"question": "?"}, **settings) == {
        "score": -1.0,
        "prm": 0.0,
        "acc": 0.0,
        "caught": 1.0,
    }
    with pytest.raises(ValueError, match="extra_info of data source 'lab' has no 'question'"):
        compute_score("lab", TEXT, "7", {}, **settings)


def test_the_reward_manager_of_verl_calls_it(prm_directory: Path) -> None:
    verl = pytest.importorskip(
        "verl", reason="needs verl 0.9, which pins transformers below 5.11: an environment of its own"
    )
    import numpy as np
    import torch

    omegaconf, verl_reward = pytest.importorskip("omegaconf"), pytest.importorskip("verl.trainer.ppo.reward")

    tokenizer = make_tokenizer()
    texts = ["a\nb\n7\n", "a\n8\n", "a\n" * 9]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    longest = max(map(len, ids))
    responses = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    data = verl.DataProto.from_dict(
        tensors={
            "prompts": torch.full((3, 2), 5),
            "responses": responses,
            "attention_mask": torch.tensor(
                [[1, 1] + [1] * len(row) + [0] * (longest - len(row)) for row in ids]
            ),
        },
        non_tensors={
            "data_source": np.array(["lab"] * 3, dtype=object),
            "reward_model": np.array([{"ground_truth": "7"}] * 3, dtype=object),
            "extra_info": np.array([{"question": "3 and 4?"} for _ in range(3)], dtype=object),
        },
    )
    kwargs = {"prm": str(prm_directory), "outcome_weight": 0.5, "device": "cpu", "guards": {"penalty": -1.0}}
    function = {"path": "pkg://forkpoint.rewards.verl", "name": "compute_score", "reward_kwargs": kwargs}
    config = omegaconf.OmegaConf.create(
        {
            "reward": {
                "custom_reward_function": function,
                "reward_manager": {"source": "register", "name": "naive"},
            }
        }
    )
    manager = verl_reward.load_reward_manager(config, tokenizer)

    async def all_rewards() -> Any:
        return await asyncio.gather(*(manager.run_single(data[idx : idx + 1]) for idx in range(3)))

    found = manager.loop.run_until_complete(all_rewards())
    for text, item in zip(texts, found, strict=True):
        expected = compute_score("lab", text, "7", {"question": "3 and 4?"}, **kwargs)  # type: ignore[arg-type]
        assert item["reward_score"] == pytest.approx(expected["score"], abs=1e-5)
        assert item["reward_extra_info"] == pytest.approx(expected, abs=1e-5)
    assert [item["reward_extra_info"]["acc"] for item in found] == [1.0, 0.0, 0.0]
    assert found[2]["reward_score"] == -1.0
