"""Domains other than mathematics: labels, training and best-of-N on balls that change hands, and on programs.

Both policies are scripted and prefer to err. The pupil tracks balls and confuses the one that is asked for,
at most once, so that all later steps are wrong; the programmer writes the wrong operator. The value of a step
is then known without the package.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from checkpoints import make_checkpoint
from forkpoint.cli import app
from forkpoint.evaluation.run import EvaluateConfig, Evaluation, Judge, SolutionSources, evaluate_policy
from forkpoint.formats.labels_file import LABELS, read_labelled
from forkpoint.lab.oracle import first_wrong_step
from forkpoint.lab.problem_set import lab_story
from forkpoint.lab.shuffle import Shuffle, State
from forkpoint.lab.story import DAYS, answer_line
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.run import label_problems
from forkpoint.policies import ScriptedPolicy
from forkpoint.prms import load_prm
from forkpoint.prms.layout import PRMFormat
from forkpoint.problems import load_problems
from forkpoint.records import LabelledSolution, Problem, Scorer
from forkpoint.runs import LocalExecutor
from forkpoint.training.config import TrainConfig
from forkpoint.training.prm import train_prm
from forkpoint.trees.grow import TreeConfig

pytestmark = pytest.mark.slow

QUIET = LocalExecutor(chunk_size=8, progress=False)
TREE = TreeConfig(num_leaves=8, tau=0.5)
EVALUATION = EvaluateConfig(num_samples=4)
TRAINING = TrainConfig(
    learning_rate=3e-3,
    num_epochs=3,
    packing="flat",
    batch_size=16,
    micro_batch_size=16,
    held_out_share=0.0,
    format=PRMFormat(tag="#", max_length=1024),
)
DOCUMENT = Path(__file__).parents[1] / "docs" / "how-to" / "second_domain.md"


def labelled(
    problems: Sequence[Problem], policy: ScriptedPolicy, out: Path, value: str
) -> list[LabelledSolution]:
    label_problems(problems, policy, out, TREE, LabelConfig(value=value), QUIET)
    return list(read_labelled(out / LABELS))


def evaluated(
    problems: Sequence[Problem],
    policy: ScriptedPolicy,
    out: Path,
    scorer: Scorer,
    threshold_problems: Sequence[Problem] = (),
) -> tuple[Evaluation, dict[tuple[str, str, str | None], float]]:
    """The evaluation, and accuracies at the largest N by sampler, selection and aggregate."""
    evaluation = evaluate_policy(
        problems,
        policy,
        out,
        SolutionSources(EVALUATION, TREE),
        QUIET,
        Judge(scorer, TRAINING.format, threshold_problems),
    )
    largest = [
        row for row in evaluation.rows if row["n"] == EVALUATION.num_samples or row["select"] == "greedy"
    ]
    return evaluation, {(row["sampler"], row["select"], row["aggregate"]): row["accuracy"] for row in largest}


def pupil_lines(shuffle: Shuffle) -> Iterator[tuple[str, dict[str, float]]]:
    """The pupil's script: after which text which line follows, and how probably."""

    def after(text: str, state: State, idx: int, has_erred: bool) -> Iterator[tuple[str, dict[str, float]]]:
        while idx < len(shuffle.events) and shuffle.events[idx].distraction:
            idx += 1
        if idx == len(shuffle.events):
            yield text, {answer_line(shuffle.read(state)): 1.0}
            return
        event = shuffle.events[idx]
        right = event.apply(state)
        asked = right.index(shuffle.answer.split()[-1])  # who has the ball that is asked for in the end
        other = (asked + 1) % len(right)
        confused = [*right]
        confused[asked], confused[other] = right[other], right[asked]
        results = {right: 1.0} if has_erred else {right: 0.4, tuple(confused): 0.6}
        lines = {result: event.line(DAYS[idx], state, result) + "\n" for result in results}
        yield text, {lines[result]: prob for result, prob in results.items()}
        for result, line in lines.items():
            yield from after(text + line, result, idx + 1, has_erred or result != right)

    yield from after("", shuffle.start, 0, False)


def pupil(problems: Sequence[Problem]) -> ScriptedPolicy:
    scripts = {problem.question: dict(pupil_lines(shuffle_of(problem))) for problem in problems}
    words = {line for script in scripts.values() for probs in script.values() for line in probs}
    return ScriptedPolicy(
        lambda question, text: scripts[question].get(text, {"<end>": 1.0}), words=sorted(words), name="pupil"
    )


def shuffle_of(problem: Problem) -> Shuffle:
    story = lab_story(problem.id)
    assert isinstance(story, Shuffle)
    return story


class Oracle:
    """Scores the steps of shuffles by their truth."""

    name = "oracle"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._stories = {problem.question: lab_story(problem.id) for problem in problems}

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        wrong = [
            first_wrong_step(self._stories[question], solution)
            for question, solution in zip(questions, steps, strict=True)
        ]
        return [
            [float(first < 0 or idx < first) for idx in range(len(solution))]
            for first, solution in zip(wrong, steps, strict=True)
        ]


def test_hard_labels_of_shuffles_are_what_the_oracle_says_of_their_steps(tmp_path: Path) -> None:
    problems = load_problems("lab-shuffle:train?num=12&level=easy&seed=2") + load_problems(
        "lab-shuffle:train?num=4"
    )
    truth = Oracle(problems)
    solutions = labelled(problems, pupil(problems), tmp_path / "run", "hit")
    for solution in solutions:
        assert [[label.value for label in solution.labels]] == truth.score(
            [solution.question], [solution.steps]
        )
    assert sum(not solution.is_correct for solution in solutions) > len(problems)
    assert len({solution.problem_id for solution in solutions if solution.is_correct}) == len(problems)


def test_soft_labels_of_shuffles_count_the_leaves_below(tmp_path: Path) -> None:
    """At most one mistake: k swaps give k + 1 leaves, k + 1 - i of them under the first i right lines."""
    problems = load_problems("lab-shuffle:train?num=8&level=easy")
    for solution in labelled(problems, pupil(problems), tmp_path / "run", "mean"):
        if solution.is_correct:
            num_swaps = len(solution.steps) - 1
            expected = [1 / (num_swaps + 1 - num_right) for num_right in range(1, num_swaps + 1)] + [1.0]
            assert [label.value for label in solution.labels] == pytest.approx(expected)
        else:
            first_wrong = first_wrong_step(lab_story(solution.problem_id), solution.steps)
            assert [label.value for label in solution.labels[first_wrong:]] == [0.0] * (
                len(solution.steps) - first_wrong
            )


def test_shuffles_are_trained_on_and_evaluated_and_the_oracle_measures_first_errors(tmp_path: Path) -> None:
    problems, others = (
        load_problems("lab-shuffle:test?num=6&level=easy"),
        load_problems("lab-shuffle:valid?num=6&level=easy"),
    )
    policy = pupil(problems + others)
    labelled(others, policy, tmp_path / "run", "mean")
    base = make_checkpoint(tmp_path / "base", initializer_range=0.1, max_position_embeddings=1024)
    report = train_prm(tmp_path / "run" / LABELS, str(base), tmp_path / "prm", TRAINING)
    assert report.num_refused == 0 and report.num_steps >= 3
    evaluation, accuracy = evaluated(
        problems, policy, tmp_path / "trained", load_prm(tmp_path / "prm"), others
    )
    assert accuracy["edu", "oracle", None] == 1.0
    assert 0 <= accuracy["edu", "best", "min"] <= 1
    assert evaluation.first_error is not None and evaluation.first_error.num_solutions == 24
    evaluation, accuracy = evaluated(problems, policy, tmp_path / "known", Oracle(problems + others), others)
    assert accuracy["edu", "best", "min"] == 1.0 and accuracy["ht", "greedy", None] == 0.0
    assert accuracy["ht", "best", "min"] == accuracy["ht", "oracle", None]
    assert evaluation.first_error is not None
    assert evaluation.first_error.acc_error == evaluation.first_error.acc_correct == 1.0


THINGS = ("pens", "cups", "cats", "hats", "keys", "jars", "maps", "nuts", "owls", "pots", "rugs", "toys")


def tasks(things: Sequence[str]) -> list[Problem]:
    return [
        Problem(
            f"tasks/{thing}",
            f"Write {thing}(a, b): all {thing} together.",
            json.dumps({"tests": [f"assert {thing}(2, 3) == 5", f"assert {thing}(0, 4) == 4"]}),
            "code",
        )
        for thing in things
    ]


def programmer() -> ScriptedPolicy:
    """Certain of all but the operator."""

    def script(question: str, text: str) -> dict[str, float]:
        thing = question.split()[1].split("(")[0]
        head = f"def {thing}(a, b):\n    total = "
        if len(text) < len(head):
            return {head[len(text)]: 1.0}
        after = {"": {"a ": 1.0}, "a ": {"- b\n": 0.6, "+ b\n": 0.4}}
        after |= {line: {"    return total\n": 1.0} for line in ("a - b\n", "a + b\n")}
        return after.get(text[len(head) :], {"<end>": 1.0})

    return ScriptedPolicy(script, words=["a ", "- b\n", "+ b\n", "    return total\n"], name="programmer")


TEXT_TREE = TreeConfig(num_leaves=4, tau=0.5, symbols="none")


def test_labels_of_programs_are_the_verdicts_of_their_tests(tmp_path: Path) -> None:
    label_problems(tasks(THINGS[:3]), programmer(), tmp_path, TEXT_TREE, LabelConfig(), QUIET)
    solutions = list(read_labelled(tmp_path / LABELS))
    assert len(solutions) == 6
    for solution in solutions:
        is_right = "+" in solution.steps[1]
        assert solution.is_correct == is_right
        assert [label.value for label in solution.labels] == [0.5, float(is_right), float(is_right)]


@pytest.mark.slow
def test_a_prm_learns_from_tests_to_pick_the_programs_that_pass(tmp_path: Path) -> None:
    policy = programmer()
    label_problems(tasks(THINGS[:8]), policy, tmp_path / "run", TEXT_TREE, LabelConfig(), QUIET)
    base = make_checkpoint(tmp_path / "base", initializer_range=0.1)
    config = TrainConfig(
        learning_rate=1e-2,
        num_epochs=30,
        packing="flat",
        batch_size=16,
        micro_batch_size=16,
        held_out_share=0.0,
        format=PRMFormat(tag="#", max_length=256),
    )
    train_prm(tmp_path / "run" / LABELS, str(base), tmp_path / "prm", config)
    prm, problems = load_prm(tmp_path / "prm"), tasks(THINGS[8:])
    evaluation = evaluate_policy(
        problems,
        policy,
        tmp_path / "eval",
        SolutionSources(EVALUATION, TEXT_TREE),
        QUIET,
        Judge(prm, prm.format),
    )
    accuracy = {
        (row["sampler"], row["select"], row["aggregate"], row["n"]): row["accuracy"]
        for row in evaluation.rows
    }
    assert accuracy["ht", "greedy", None, 1] == accuracy["edu", "majority", None, 4] == 0.0
    assert accuracy["edu", "best", "min", 4] == accuracy["edu", "oracle", None, 4] == 1.0


@pytest.mark.slow
def test_the_commands_of_the_document_run(tmp_path: Path) -> None:
    page = DOCUMENT.read_text()
    task, answer = re.findall(r"`(\{.*?\})`", page, re.DOTALL)
    (tmp_path / "tasks.jsonl").write_text(task + "\n")
    (tmp_path / "answers.jsonl").write_text(answer + "\n")
    policy = make_checkpoint(tmp_path / "policy", max_position_embeddings=1024)
    blocks = re.findall(r"```sh\n(.*?)```", page.replace("\\\n", ""), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        arguments = shlex.split(command.replace("POLICY", str(policy)).replace("OUT/", f"{tmp_path}/"))
        assert app(arguments[1:], result_action="return_value") == 0, command
    results = json.loads((tmp_path / "shuffle-eval" / "results.json").read_text())
    assert results["first_error"]["num_solutions"] == 4
    assert json.loads((tmp_path / "verdicts.jsonl").read_text())["outcome"] == "correct"


def test_the_example_of_the_document_is_a_problem_of_the_lab_with_its_solution() -> None:
    question, solution = (
        " ".join(block.split())
        for block in re.findall(r"(?:^    .*\n)+", DOCUMENT.read_text(), re.MULTILINE)[:2]
    )
    (problem,) = load_problems("lab-shuffle:easy?num=1")
    assert question == problem.question
    assert solution == " ".join(shuffle_of(problem).solution.split())
