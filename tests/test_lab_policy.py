"""The shipped policies: small, with their own tokenizers, useful in the lab, and equal trees in any batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain

import pytest

from forkpoint.estimates import bootstrap
from forkpoint.experiments.lab_check import CheckConfig, check_policy
from forkpoint.policies import SHIPPED, load_policy
from forkpoint.policies.local import LocalPolicy
from forkpoint.problems import load_problems
from forkpoint.records import Tree
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.solve import solve_by_sampling
from forkpoint.trees.grow import TreeConfig, grow_trees

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return load_policy("lab")


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_and_have_cards(name: str) -> None:
    assert sum(path.stat().st_size for path in SHIPPED[name].iterdir()) < 4_000_000
    assert "## How it was made" in (SHIPPED[name] / "README.md").read_text()
    assert json.loads((SHIPPED[name] / "config.json").read_text())["model_type"] == "qwen2"


def test_digits_and_the_step_tag_are_single_tokens(policy: LocalPolicy) -> None:
    texts = policy.token_texts(policy.encode_question("Monday: finds 1234567890=+-*"))
    assert [text for text in texts if text.isdigit()] == list("1234567890")
    assert len(policy.encode_question(" ки")) == len(policy.encode_question("")) + 1


def test_any_text_survives_its_tokenizer(policy: LocalPolicy) -> None:
    text = 'Naïve "quotes" – 3 × 4 = 12 🙂\n\ttabs'
    assert policy.decode(policy.encode_question(text)) == text + "\n"


@pytest.mark.slow
def test_it_is_useful_on_held_out_problems(policy: LocalPolicy) -> None:
    found = check_policy(policy, CheckConfig(problems="lab:test?num=150&seed=7", num_samples=64))
    assert found.greedy.low < 0.65 and found.greedy.high > 0.35
    assert found.oracle.mean >= 0.85
    assert found.anchors.mean >= 2
    assert found.first_errors["none"] == round(found.greedy.mean * 150)


def test_levels_are_ordered_by_difficulty(policy: LocalPolicy) -> None:
    accuracy = []
    for level in ("easy", "test", "hard"):
        outcomes = solve_by_sampling(
            policy, load_problems(f"lab:{level}?num=100&seed=3"), RolloutConfig(1, 0.0, max_tokens=160)
        )
        accuracy.append(bootstrap([float(outcome.ends[0].is_correct) for outcome in outcomes]).mean)
    assert accuracy == sorted(accuracy, reverse=True)


@pytest.mark.slow
def test_the_policy_of_the_shuffles_is_useful_on_held_out_shuffles() -> None:
    found = check_policy(
        load_policy("lab-shuffle"),
        CheckConfig(problems="lab-shuffle:test?num=60&seed=7", num_samples=16, max_tokens=240),
    )
    assert found.greedy.high > 0.4  # guessing among four people is .25
    assert found.greedy.mean > 0.3
    assert found.oracle.mean >= 0.75
    assert found.anchors.mean >= 1


def structure(tree: Tree) -> list[tuple[int | None, int, tuple[int, ...], str]]:
    return [
        (branch.parent_idx, branch.fork, branch.completion.token_ids, branch.completion.finish)
        for branch in tree.branches
    ]


def numbers(tree: Tree) -> Iterator[float]:
    for branch in tree.branches:
        own = branch.completion
        yield from chain(own.logprobs, own.entropies, own.runner_up_logprobs)


@pytest.mark.slow
def test_a_tree_grown_with_batch_size_1_equals_one_grown_with_batch_size_64() -> None:
    problems = load_problems("lab:test?num=12&seed=5")
    config = TreeConfig(num_leaves=8, max_tokens=160)
    one, many = load_policy("lab", batch_size=1), load_policy("lab", batch_size=64)
    prompts = [one.encode_question(problem.question) for problem in problems]
    left = [grow_trees(one, [prompt], config)[0][0] for prompt in prompts]
    right = [tree for tree, _ in grow_trees(many, prompts, config)]
    assert [structure(tree) for tree in left] == [structure(tree) for tree in right]
    for ours, theirs in zip(left, right, strict=True):
        assert list(numbers(ours)) == pytest.approx(list(numbers(theirs)), abs=1e-4)
    assert sum(tree.num_leaves for tree in left) > 40
