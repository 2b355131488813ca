"""`ScriptedPolicy` against distributions worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping

import pytest

from forkpoint.policies import ScriptedPolicy
from forkpoint.policies.scripted import END, IMPOSSIBLE_LOGPROB
from forkpoint.records import Completion, Request

TREE: Mapping[str, Mapping[str, float]] = {
    "": {"a": 0.6, "b": 0.4},
    "a": {"x": 0.9, "y": 0.1},
    "b": {END: 0.7, "ccc": 0.3},
    "bccc": {"d": 1.0},
}


def prompt(policy: ScriptedPolicy, text: str = "") -> tuple[int, ...]:
    return policy.encode_question("1+1?") + policy.encode(text)


def test_greedy_follows_the_most_probable_tokens_to_the_end() -> None:
    policy = ScriptedPolicy(TREE)
    (completion,) = policy.generate([Request(prompt(policy), 10)])
    assert policy.token_texts(completion.token_ids) == ["a", "x", ""]
    assert completion.finish == "stop" and completion.token_ids[-1] in policy.eos_ids
    assert policy.decode(completion.token_ids) == "ax"


def test_evidence_is_that_of_the_table() -> None:
    policy = ScriptedPolicy(TREE)
    (completion,) = policy.generate([Request(prompt(policy), 10)])
    assert completion.logprobs == pytest.approx([math.log(0.6), math.log(0.9), 0.0])
    assert completion.entropies == pytest.approx(
        [-0.6 * math.log(0.6) - 0.4 * math.log(0.4), -0.9 * math.log(0.9) - 0.1 * math.log(0.1), 0.0]
    )
    assert policy.token_texts(completion.runner_up_ids)[:2] == ["b", "y"]
    assert completion.runner_up_logprobs == pytest.approx([math.log(0.4), math.log(0.1), IMPOSSIBLE_LOGPROB])
    assert completion.runner_up_ids[2] != completion.token_ids[2]


def test_the_runner_up_of_an_improbable_sample_is_the_most_probable_token() -> None:
    policy = ScriptedPolicy(TREE)
    completions = policy.generate([Request(prompt(policy, "a"), 1, 1.0, seed=seed) for seed in range(60)])
    taken = {tuple(policy.token_texts((c.token_ids[0], c.runner_up_ids[0]))) for c in completions}
    assert taken == {("x", "y"), ("y", "x")}


def test_forks_continue_from_the_text_after_the_prompt() -> None:
    policy = ScriptedPolicy(TREE)
    prefix = (*prompt(policy, "b"), *policy.encode(["ccc"]))
    (completion,) = policy.generate([Request(prefix, 10)])
    assert policy.token_texts(completion.token_ids) == ["d", ""]
    assert policy.decode(prefix[4:]) == "bccc"


def test_sampling_frequencies_match_the_table_at_any_temperature() -> None:
    policy = ScriptedPolicy({"": {"a": 0.5, "b": 0.3, "c": 0.2}})
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.79), (1.0, 0.4)):
        weights = {token: p ** (1 / temperature) for token, p in (("a", 0.5), ("b", 0.3), ("c", 0.2))}
        kept = {1.0: "abc", 0.79: "ab", 0.4: "a"}[top_p]
        completions = policy.generate(
            [Request(prompt(policy), 1, temperature, top_p, seed) for seed in range(3000)]
        )
        counts = Counter(policy.decode(completion.token_ids) for completion in completions)
        total = sum(weights[token] for token in kept)
        assert set(counts) == set(kept)
        for token in kept:
            assert counts[token] / 3000 == pytest.approx(weights[token] / total, abs=0.03)


def test_a_sample_depends_on_its_request_alone() -> None:
    policy = ScriptedPolicy(TREE)
    requests = [Request(prompt(policy), 10, 1.0, seed=seed) for seed in range(20)]
    completions = policy.generate(requests)
    assert policy.generate(requests[::-1]) == completions[::-1]
    assert len(set(completions)) > 2


def test_finish_is_length_where_the_limit_comes_first() -> None:
    policy = ScriptedPolicy(TREE)
    (completion,) = policy.generate([Request(prompt(policy), 2)])
    assert (policy.decode(completion.token_ids), completion.finish) == ("ax", "length")


def test_nothing_follows_a_prefix_that_ends_in_the_end_token() -> None:
    policy = ScriptedPolicy(TREE)
    completions = policy.generate([Request((*prompt(policy), *policy.encode([END])), 5)])
    assert completions == [Completion((), (), (), (), (), "stop")]


def test_a_function_sees_question_and_text() -> None:
    def count_down(question: str, text: str) -> dict[str, float]:
        number = int(text[-1] if text else question)
        return {END: 1.0} if number == 0 else {str(number - 1): 1.0}

    policy = ScriptedPolicy(count_down, name="count-down")
    completions = policy.generate([Request(policy.encode_question(question), 10) for question in "31"])
    assert [policy.decode(completion.token_ids) for completion in completions] == ["210", "0"]
    assert policy.name == "count-down"


def test_words_of_a_function_must_be_announced() -> None:
    with pytest.raises(ValueError, match="'hello' has more than one character"):
        ScriptedPolicy(lambda question, text: {"hello": 1.0}).generate([Request((2,), 1)])
    policy = ScriptedPolicy(lambda question, text: {END: 1.0} if text else {"hello": 1.0}, words=["hello"])
    (completion,) = policy.generate([Request(prompt(policy), 3)])
    assert policy.token_texts(completion.token_ids) == ["hello", ""]


def test_what_is_no_distribution_is_an_error_that_names_the_text() -> None:
    with pytest.raises(ValueError, match=r"after 'a' must be .* add up to 0\.9"):
        ScriptedPolicy({"a": {"x": 0.5, "y": 0.4}})
    with pytest.raises(ValueError, match="empty token"):
        ScriptedPolicy({"": {"": 1.0}})
    with pytest.raises(ValueError, match="add up to 0"):
        ScriptedPolicy({"": {}})


def test_requests_are_on_record() -> None:
    policy = ScriptedPolicy(TREE)
    first, second = Request(prompt(policy), 1), Request(prompt(policy, "a"), 2)
    policy.generate([first, second])
    policy.generate([second])
    assert policy.requests == [first, second, second]
    assert policy.batch_sizes == [2, 1]


def test_policies_with_different_tables_have_different_names() -> None:
    assert (
        ScriptedPolicy(TREE).name == ScriptedPolicy(dict(TREE)).name != ScriptedPolicy({"": {"a": 1.0}}).name
    )


def test_needs_no_torch() -> None:
    code = "import sys, forkpoint.policies.scripted; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
