"""Step scores: what a scorer may answer, and the rows that they become in each kind of run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from forkpoint.errors import LayoutError
from forkpoint.evaluation.run import EvaluateConfig, Judge, SolutionSources, evaluate_policy
from forkpoint.policies import ScriptedPolicy
from forkpoint.prm_benchmarks.scoring import score_solutions, solution_key
from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.score_file import read_solutions, score_rows
from forkpoint.prms.scores import checked_scores
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor, PoolExecutor, Run
from forkpoint.solutions.outcomes import SampleOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.scoring import candidate_work, score_work
from forkpoint.solutions.work import SampleWork
from forkpoint.trees.grow import TreeConfig

QUIET = LocalExecutor(chunk_size=4, progress=False)
SCRIPT = {
    "": {"one\n": 0.5, "two\n": 0.3, "bad\n": 0.2},
    "one\n": {"The answer is 1": 1.0},
    "two\n": {"The answer is 3": 0.5, "and so on ": 0.5},
    "two\nand so on ": {"and so on and so on": 1.0},
    "bad\n": {"The answer is 3": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", "3") for idx in range(8)]
THIRD = 1 / 3


class Answering:
    """Gives the same scores for whatever it is asked."""

    name = "answering"

    def __init__(self, *scores: Sequence[float]) -> None:
        self.scores = [list(scores_S) for scores_S in scores]

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        return self.scores


class Thirds:
    """A third for every step; cannot read `bad`. Keeps what it was asked."""

    name = "thirds"

    def __init__(self) -> None:
        self.read: list[tuple[str, tuple[str, ...]]] = []

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        if any("bad" in "".join(steps_S) for steps_S in steps):
            raise LayoutError("bad cannot be read")
        self.read += [(question, tuple(steps_S)) for question, steps_S in zip(questions, steps, strict=True)]
        return [[THIRD for _ in steps_S] for steps_S in steps]


WRONG_ANSWERS = [
    ([], "was given 1 solutions and scored 0"),
    ([[0.5, 0.5], [0.5, 0.5]], "was given 1 solutions and scored 2"),
    ([[0.5]], r"gave the scores \[0.5\] for 2 steps"),
    ([[0.5, 0.5, 0.5]], r"gave the scores \[0.5, 0.5, 0.5\] for 2 steps"),
    ([[0.5, 7.0]], r"gave the scores \[0.5, 7.0\] for 2 steps; one number in \[0, 1\] per step"),
    ([[-0.1, 0.5]], "gave the scores"),
    ([[0.5, float("nan")]], "gave the scores"),
    ([[float("inf"), 0.5]], "gave the scores"),
]


@pytest.mark.parametrize(("scores", "message"), WRONG_ANSWERS)
def test_only_one_number_from_0_to_1_per_step_is_an_answer(scores: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=f"scorer 'answering' {message}"):
        checked_scores(Answering(*scores), ["q"], [("a\n", "b")])
    assert checked_scores(Answering([0, 1]), ["q"], [("a\n", "b")]) == [(0.0, 1.0)]


@pytest.mark.parametrize(("scores", "message"), WRONG_ANSWERS)
def test_a_wrong_answer_reaches_no_benchmark_and_no_file_of_scores(
    tmp_path: Path, scores: list[list[float]], message: str
) -> None:
    with pytest.raises(RuntimeError, match="1 items failed"):
        score_solutions(Answering(*scores), [("q", ("a\n", "b"))], tmp_path, QUIET)
    (failure,) = map(json.loads, (tmp_path / "scores" / "failures.jsonl").read_text().splitlines())
    assert failure["error"] == "ValueError"
    with pytest.raises(ValueError, match=message):
        score_rows([{"question": "q", "steps": ["a\n", "b"]}], Answering(*scores), "min", "newline")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "q", "steps": ["\\ud800"]}', "line 4: it holds .* half of a surrogate pair"),
        ('{"question": "q", "steps": ["a"], "note": "\\udfff"}', "line 4: it holds .* surrogate pair"),
        ('{"question": "q", "steps": ["a"], "weight": NaN}', "line 4: it holds a number that is not finite"),
        (
            '{"question": "q", "steps": ["a"], "weight": 1e999}',
            "line 4: it holds a number that is not finite",
        ),
        ('{"question": null, "steps": ["a"]}', "line 4: a JSON object with a text `question` is needed"),
        ('["q"]', "line 4 holds a list; a solution is a JSON object"),
        ('{"question": "q", "steps": [], "solution": "a"}', "line 4: `steps` must be a list"),
        ("{", "line 4 is not JSON"),
    ],
)
def test_a_line_that_cannot_be_scored_is_named(tmp_path: Path, line: str, message: str) -> None:
    good = '{"question": "q", "steps": ["a\\n", "b"]}\n'
    (tmp_path / "rows.jsonl").write_text(f"\ufeff{good}\n{good}{line}\n")
    with pytest.raises(ValueError, match=message):
        read_solutions(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text(f"\ufeff{good}\n{good}")
    assert read_solutions(tmp_path / "rows.jsonl") == [json.loads(good)] * 2


@pytest.mark.parametrize("refused", [0, 1, 4, 6])
def test_the_first_line_that_a_prm_refuses_is_named(refused: int) -> None:
    rows = [
        {"question": "q", "solution": "bad" if idx in (refused, 6) else f"good {idx}"} for idx in range(7)
    ]
    places = [f"file, line {number}" for number in range(1, 8)]
    with pytest.raises(LayoutError, match=f"^file, line {refused + 1}: bad cannot be read"):
        score_rows(rows, Thirds(), "min", "newline", places)


def test_a_score_of_7_and_one_too_many_reach_no_evaluation(tmp_path: Path) -> None:
    class Careless(Thirds):
        def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
            return [[7.0, 2.0, 0.5] for _ in steps]

    config = EvaluateConfig(num_samples=2, temperatures=(1.0,), max_tokens=4)
    with pytest.raises(RuntimeError, match="8 items failed"):
        evaluate_policy(
            PROBLEMS,
            ScriptedPolicy(SCRIPT),
            tmp_path,
            SolutionSources(config, TreeConfig(tau=0.5, num_leaves=2)),
            QUIET,
            Judge(Careless()),
        )
    assert "one number in [0, 1] per step is needed" in (tmp_path / "failures.jsonl").read_text()


def sampled(run: Run) -> SampleWork:
    """Four samples of every problem, three tokens each at most, journaled."""
    work = SampleWork(ScriptedPolicy(SCRIPT), PROBLEMS, RolloutConfig(4, 1.0, 1.0, 3, 0))
    QUIET.execute(run, work)
    return work


def test_candidates_are_scored_here_without_a_warning_null_if_refused_or_not_ended(tmp_path: Path) -> None:
    scorer = Thirds()
    with Run.open(tmp_path / "run", "samples", {}) as run, PoolExecutor(2, progress=False) as pool:
        samples = sampled(run)
        work = candidate_work(scorer, PRMFormat(), run, samples.keys)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pool.execute(run, work)
        for outcome, row in zip(run.rows(samples.keys), run.rows(work.keys), strict=True):
            texts = [path.text for path in SampleOutcome.from_row(outcome).paths]
            assert row["kind"] == "candidates"
            assert row["scores"] == [
                None if "so on" in text or "bad" in text else [0.333333] * len(text.splitlines())
                for text in texts
            ]
    assert len(scorer.read) == len(set(scorer.read)) > 0


def test_rows_and_keys_of_scores_stay_what_they_were(tmp_path: Path) -> None:
    """Runs that were begun by an earlier version go on: these are the keys that they hold."""
    script = {"": {"one\n": 1.0}, "one\n": {"The answer is 1": 1.0}}
    with Run.open(tmp_path / "run", "samples", {}) as run:
        samples = SampleWork(ScriptedPolicy(script), PROBLEMS[:1], RolloutConfig(2, 1.0, 1.0, 3, 0))
        QUIET.execute(run, samples)
        run.append([("outcome", next(run.rows(samples.keys)))])
        scores = score_work(Thirds(), PRMFormat(), run, ["outcome"])
        candidates = candidate_work(Thirds(), PRMFormat(), run, ["outcome"])
        assert list(scores.keys) == ["e9f56cfa31166d58376822a55b38bc3a"]
        assert list(candidates.keys) == ["f0b0fc994f1b66239eaf942f797fa03a"]
        rounded = [[0.333333, 0.333333]] * 2
        assert scores.perform([0]) == [{"kind": "scores", "scores": rounded}]
        assert candidates.perform([0]) == [{"kind": "candidates", "scores": rounded}]
    scored = score_solutions(Thirds(), [("q", ("a\n", "b")), ("q", ("bad",))], tmp_path, QUIET)
    assert scored.scores == [(THIRD, THIRD), None] and scored.refusals == ["bad cannot be read"]
    assert solution_key(("q", ("a\n", "b"))) == "43f73815182851c71bfe723173e9f314"
    with Run.read(tmp_path / "scores") as run:
        assert list(run.rows([solution_key(("q", ("bad",)))])) == [{"refused": "bad cannot be read"}]
        assert list(run.rows([solution_key(("q", ("a\n", "b")))])) == [{"scores": [THIRD, THIRD]}]
