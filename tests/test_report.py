"""The report page: what it says, that it loads nothing, and that model output is only text."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import math
import re
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from forkpoint.cli.search import search
from forkpoint.evaluation.origin import command_line, commit_of
from forkpoint.report import write_report
from forkpoint.report.charts import log_ticks, nice_ticks, series_of, spread
from forkpoint.report.headline import DEFAULT_SEARCH, DEFAULT_SELECT, headline
from forkpoint.report.learning import learning_charts
from forkpoint.report.page import training_of
from forkpoint.report.results import read_results
from forkpoint.report.tables import forest, table
from forkpoint.report.trees import read_trees
from forkpoint.report.words import duration, parameters, points
from forkpoint.search.config import METHODS

HOSTILE = (
    "<script>alert(1)</script> </script><img src=x onerror=alert(2)> {{7*7}} {% raw %} \u2028 \u2029 <!-- & "
    "\"quoted' \ud800"
)
AGGREGATES = ("min", "prod", "mean", "last")


# ---- a synthetic run, drawn by hand ----


def wilson(accuracy: float, num_problems: int) -> tuple[float, float]:
    z2 = 1.96**2
    centre = (accuracy + z2 / (2 * num_problems)) / (1 + z2 / num_problems)
    half = (
        1.96
        / (1 + z2 / num_problems)
        * math.sqrt(accuracy * (1 - accuracy) / num_problems + z2 / (4 * num_problems**2))
    )
    return centre - half, centre + half


def row(
    sampler: str,
    temperature: float | None,
    select: str,
    aggregate: str | None,
    n: int,
    accuracy: float,
    tokens: float,
) -> dict[str, Any]:
    low, high = wilson(accuracy, 200)
    return {
        "sampler": sampler,
        "temperature": temperature,
        "select": select,
        "aggregate": aggregate,
        "n": n,
        "accuracy": round(accuracy, 3),
        "ci_low": low,
        "ci_high": high,
        "num_problems": 200,
        "sampled_tokens_per_problem": round(tokens, 1),
    }


def drawn_rows() -> list[dict[str, Any]]:
    rows = [row("ht", 0.0, "greedy", None, 1, 0.435, 61.2)]
    for sampler, temperature, start, gain in (
        ("ht", 0.7, 0.41, 1.0),
        ("ht", 1.0, 0.355, 1.06),
        ("edu", 0.0, 0.435, 0.92),
    ):
        for n in (1, 2, 4, 8, 16):
            doublings = math.log2(n)
            tokens = 63.0 * n if sampler == "ht" else 61.2 + 24.0 * (n - 1)
            rows.append(
                row(sampler, temperature, "majority", None, n, start + 0.035 * doublings * gain, tokens)
            )
            rows.append(
                row(
                    sampler,
                    temperature,
                    "oracle",
                    None,
                    n,
                    start + (0.12 - 0.006 * doublings) * doublings * gain,
                    tokens,
                )
            )
            for worth, aggregate in zip((0.0775, 0.0745, 0.066, 0.058), AGGREGATES, strict=True):
                rows.append(
                    row(sampler, temperature, "best", aggregate, n, start + worth * doublings * gain, tokens)
                )
                rows.append(
                    row(
                        sampler,
                        temperature,
                        "weighted",
                        aggregate,
                        n,
                        start + (worth - 0.01) * doublings * gain,
                        tokens,
                    )
                )
    return rows


def drawn_results() -> dict[str, Any]:
    rows = drawn_rows()
    return {
        "version": "0.1.0",
        "config": {
            "policy": "lab",
            "tau": 1.0,
            "train": {"learning_rate": 1e-3, "epochs": 5},
            "ns": [1, 2, 4, 8, 16],
            "note": "x > y",
        },
        "policy": {
            "name": "lab policy",
            "greedy_accuracy": 0.435,
            "greedy_accuracy_low": 0.368,
            "greedy_accuracy_high": 0.504,
            "num_parameters": 861312,
        },
        "rows": rows,
        "comparisons": [
            compared(
                rows,
                "HT best-of-16 (min) minus HT majority-of-16",
                ("ht", 0.7, "best", "min"),
                ("ht", 0.7, "majority", None),
                0.051,
            ),
            compared(
                rows,
                "HT weighted-of-16 (min) minus HT majority-of-16",
                ("ht", 0.7, "weighted", "min"),
                ("ht", 0.7, "majority", None),
                0.049,
            ),
            compared(
                rows,
                "EDU best-of-16 (min) minus HT best-of-16 (min)",
                ("edu", 0.0, "best", "min"),
                ("ht", 0.7, "best", "min"),
                0.06,
            ),
            compared(
                rows,
                "HT best-of-16 (last) minus HT best-of-16 (min)",
                ("ht", 0.7, "best", "last"),
                ("ht", 0.7, "best", "min"),
                0.044,
            ),
        ],
        "first_error": {
            "f1": 0.613,
            "acc_error": 0.548,
            "acc_correct": 0.695,
            "threshold": 0.42,
            "num_problems": 400,
        },
        "label_quality": {"mae": 0.117, "correlation": 0.842, "num_labels": 1200, "rollouts": 64},
        "cost": {
            "requests": 18230,
            "prompt_tokens": 1203400,
            "reused_tokens": 874120,
            "sampled_tokens": 741337,
        },
        "seconds": {"label": 402.3, "train": 233.9, "evaluate": 187.0},
        "something_new": {"that": ["this page", "does not know"]},
    }


Way = tuple[str, float | None, str, str | None]


def compared(rows: list[dict[str, Any]], name: str, left: Way, right: Way, half: float) -> dict[str, Any]:
    accuracies = {
        (r["sampler"], r["temperature"], r["select"], r["aggregate"]): r["accuracy"]
        for r in rows
        if r["n"] == 16
    }
    difference = accuracies[left] - accuracies[right]
    return {
        "name": name,
        "difference": difference,
        "ci_low": difference - half,
        "ci_high": difference + half,
        "num_problems": 200,
    }


Drawn = tuple[int | None, int, str, dict[int, float], str | None, bool]


def tree(problem_id: str, question: str, reference: str, drawn: list[Drawn]) -> dict[str, Any]:
    """Make branches of (parent, fork, `|`-joined tokens, entropies of uncertain tokens, answer, is right)."""
    branches = []
    for parent, fork, text, uncertain, answer, is_correct in drawn:
        tokens = text.split("|")
        entropies = [uncertain.get(idx, 0.02 + 0.09 * (idx * 7 % 5)) for idx in range(len(tokens))]
        branches.append(
            {
                "parent_idx": parent,
                "fork": fork,
                "tokens": tokens,
                "entropies": entropies,
                "logprobs": [-0.6 * entropy for entropy in entropies],
                "runner_ups": [f" {(idx * 37) % 90}" for idx in range(len(tokens))],
                "is_anchor": [entropy > 1.0 for entropy in entropies],
                "answer": answer,
                "is_correct": is_correct,
                "finish": "stop" if answer is not None else "length",
            }
        )
    shown = {
        "problem_id": problem_id,
        "question": question,
        "reference": reference,
        "tau": 1.0,
        "prompt_text": f"Question: {question}\nAnswer:",
    }
    return shown | {"branches": branches, "fragments": fragments(branches)}


def path_of(branches: list[dict[str, Any]], leaf: int) -> list[tuple[int, int]]:
    """Return the path to a leaf as (branch that sampled the token, index among the tokens of that branch)."""
    branch = branches[leaf]
    head = [] if branch["parent_idx"] is None else path_of(branches, branch["parent_idx"])[: branch["fork"]]
    return head + [(leaf, idx) for idx in range(len(branch["tokens"]))]


def fragments(branches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one fragment for each run of tokens above the same leaves, by brute force over paths."""
    paths = [path_of(branches, leaf) for leaf in range(len(branches))]
    below = {
        token: [leaf for leaf, path in enumerate(paths) if token in path] for path in paths for token in path
    }
    found, seen = [], set()
    for leaf, path in enumerate(paths):
        start = 0
        for end in range(1, len(path) + 1):
            leaves = below[path[end - 1]]
            if end < len(path) and below[path[end]] == leaves:
                continue
            if path[end - 1] not in seen:
                seen.add(path[end - 1])
                right = sum(branches[idx]["is_correct"] for idx in leaves)
                low, high = wilson(right / len(leaves), len(leaves))
                label = {
                    "value": right / len(leaves),
                    "num_correct": right,
                    "num_total": len(leaves),
                    "low": max(0, low),
                    "high": min(1, high),
                }
                score = round(0.15 + 0.7 * label["value"] + 0.03 * (end % 5) - 0.05, 3)
                found.append(
                    {
                        "branch_idx": leaf,
                        "start": start,
                        "end": end,
                        "label": label,
                        "score": score if end % 7 else None,
                    }
                )
            start = end
    return found


def drawn_trees() -> list[dict[str, Any]]:
    pencils = tree(
        "pencils-017",
        "A shop sells pencils in boxes of 12. Tom buys 3 boxes and gives 7 pencils to Ann. How many pencils "
        "does he keep?",
        "29",
        [
            (
                None,
                0,
                "Tom| buys| 3| boxes| of| 12| pencils|,| so| he| has| 3| *| 12| =| 36| pencils|.|\n|"
                "He| gives| 7| away|:| 36| -| 7| =| 29|.|\n|The| answer| is| 29|.|<eos>",
                {8: 1.24, 15: 1.12, 19: 1.41, 28: 1.18},
                "29",
                True,
            ),
            (
                0,
                19,
                "Ann| has| 7| pencils|,| so| 36| +| 7| =| 43|.|\n|The| answer| is| 43|.|<eos>",
                {0: 1.41, 6: 1.06, 10: 0.74},
                "43",
                False,
            ),
            (
                0,
                15,
                " 32| pencils|.|\n|He| gives| 7| away|:| 32| -| 7| =| 25|.|\n|The| answer| is| 25|.|<eos>",
                {0: 1.12, 13: 1.31},
                "25",
                False,
            ),
            (0, 28, " 31|.|\n|The| answer| is| 31|.|<eos>", {0: 1.18}, "31", False),
            (2, 28, " 24|.|\n|The| answer| is| 24|.|<eos>", {0: 1.31}, "24", False),
            (1, 25, " 29| are| left|.|\n|The| answer| is| 29|.|<eos>", {0: 1.06}, "29", True),
            (
                0,
                8,
                " giving| 7| away| leaves| 3| *| 12| -| 7| =| 36| -| 7| =| 29|.|\n"
                "|The| answer| is| 29|.|<eos>",
                {0: 1.24, 10: 0.9, 14: 1.02},
                "29",
                True,
            ),
            (6, 22, " 28|, or| 28|, or| 28|, or| 28|, or| 28|, or", {0: 1.02}, None, False),
        ],
    )
    return [pencils, drawn_chain()]


def drawn_chain(num_branches: int = 16) -> dict[str, Any]:
    """Make a deep tree of character tokens in which most branches leave the path of the one before."""
    root = "|".join("77+76=153\n153-62=91\n91-35=56\n56*6=336\n336+189=525\n#525") + "|<eos>"
    drawn: list[Drawn] = [
        (None, 0, root, {idx: 1.05 + 0.1 * (idx % 7) for idx in (6, 8, 17, 18, 26, 34, 35)}, "525", True)
    ]
    places = (6, 8, 17, 18, 26, 34, 35)
    for idx in range(1, num_branches):
        parent = (idx - 1) // 2 if idx % 3 else idx - 1
        fork = min(
            max(places[idx % 7] + idx // 2, drawn[parent][1] + 2),
            drawn[parent][1] + drawn[parent][2].count("|") - 1,
        )
        tail = "|".join(f"{idx}{(idx * 13) % 10}\n{idx * 31}-35={idx * 31 - 35}\n#{idx * 31 - 35}") + "|<eos>"
        drawn.append(
            (parent, fork, tail, {0: 1.2 + 0.05 * (idx % 9), 2: 1.6}, str(idx * 31 - 35), idx % 5 == 2)
        )
    return tree("lab-4/00231", "77;+76;-62;-35;*6;+189?", "525", drawn)


def written(directory: Path, results: Any, trees: Any = None) -> str:
    (directory / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if trees is not None:
        (directory / "trees.json").write_text(json.dumps(trees), encoding="utf-8")
    return write_report(directory).read_text(encoding="utf-8")


class Page(HTMLParser):
    """The parsed page: start tags with attributes, the content of scripts, and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def without_spaces(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u00a0", " "))


# ---- the page as a whole ----


def test_page_is_written_beside_the_results_and_loads_nothing(tmp_path: Path) -> None:
    html = written(tmp_path, drawn_results(), drawn_trees())
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["report.html", "results.json", "trees.json"]
    page = Page(html)
    loading = {"src", "srcset", "data", "poster", "background", "action", "xlink:href"}
    for tag, attrs in page.tags:
        assert not loading & set(attrs), f"<{tag}> loads something"
        assert (attrs.get("href") or "#").startswith("#")
        assert tag not in {"link", "iframe", "img", "object", "embed", "base", "form"}
    assert "@import" not in html
    assert "url(" not in html
    assert not re.search(r"https?:|//[a-z]+\.[a-z]", html.replace("// ", ""))


def test_policy_forbids_every_load_and_every_script_but_the_pages_own(tmp_path: Path) -> None:
    page = Page(written(tmp_path, drawn_results(), drawn_trees()))
    policy = next(
        meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    own = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{own}'" in policy


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path, drawn_results(), drawn_trees()) == written(
        tmp_path, drawn_results(), drawn_trees()
    )


def test_hostile_text_stays_text_everywhere(tmp_path: Path) -> None:
    results = drawn_results()
    results["policy"]["name"] = HOSTILE
    results["config"] = {HOSTILE: {HOSTILE: HOSTILE}}
    results["comparisons"][0]["name"] = HOSTILE
    results["rows"][1] |= {"sampler": HOSTILE, "select": HOSTILE, "aggregate": HOSTILE}
    results["seconds"] = {HOSTILE: 1.0}
    results["version"] = HOSTILE
    hostile = tree(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        [(None, 0, f"a|{HOSTILE}|b", {1: 1.5}, HOSTILE, True), (0, 1, HOSTILE, {}, HOSTILE, False)],
    )
    plain, page = (
        Page(written(tmp_path, drawn_results(), drawn_trees())),
        Page(written(tmp_path, results, [hostile])),
    )
    assert len(page.scripts) == len(plain.scripts) == 2
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert "<script>alert(1)</script>" in page.text
    assert "{{7*7}}" in page.text
    assert "49" not in without_spaces(page.text.split("Configuration")[1].split("Accuracy against")[0])


def test_json_island_gives_back_what_was_put_in(tmp_path: Path) -> None:
    hostile = tree("p", HOSTILE, "1", [(None, 0, f"a|{HOSTILE}", {1: 1.5}, HOSTILE, True)])
    page = Page(written(tmp_path, drawn_results(), [hostile]))
    island = page.scripts[0]
    assert not set("<>&\u2028\u2029") & set(island)
    assert json.loads(island) == {"trees": read_trees(tmp_path / "trees.json")}
    assert json.loads(island)["trees"][0]["nodes"][0]["tokens"][1][0] == HOSTILE


def test_script_shows_text_as_text_only(tmp_path: Path) -> None:
    script = Page(written(tmp_path, drawn_results())).scripts[1]
    for door in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "DOMParser",
        "srcdoc",
        "fetch(",
        "import(",
    ):
        assert door not in script


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("comparisons", "no comparisons"),
        ("first_error", "no first_error"),
        ("label_quality", "no label_quality"),
        ("cost", "no cost"),
        ("seconds", "no seconds"),
    ],
)
@pytest.mark.parametrize("gone", ["missing", "null", "empty"])
def test_a_missing_part_is_named_in_its_section(tmp_path: Path, key: str, says: str, gone: str) -> None:
    results = drawn_results()
    if gone == "missing":
        del results[key]
    else:
        results[key] = None if gone == "null" else type(results[key])()
    assert f"results.json holds {says}" in Page(written(tmp_path, results)).text


def test_nothing_missing_says_nothing_is_missing(tmp_path: Path) -> None:
    missing = [
        attrs
        for attrs in Page(written(tmp_path, drawn_results(), drawn_trees())).named("p")
        if attrs.get("class") == "missing"
    ]
    assert len(missing) == 1, "only the hint for readers without scripts"


def test_a_run_without_rows_and_trees_still_gives_a_page(tmp_path: Path) -> None:
    page = Page(written(tmp_path, {"version": "0", "config": {}, "policy": {}, "rows": []}))
    for says in (
        "Nothing to compare yet.",
        "results.json holds no rows.",
        "There is no trees.json",
        "empty configuration",
        "Nothing to draw",
    ):
        assert says in page.text
    assert json.loads(page.scripts[0]) == {"trees": []}


def test_a_single_row_gives_a_page(tmp_path: Path) -> None:
    results = drawn_results() | {"rows": [row("ht", 0.7, "majority", None, 1, 0.5, 0.0)], "comparisons": []}
    assert "no best-of-n row" in Page(written(tmp_path, results)).text


def test_missing_results_say_where_they_were_sought(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no results\.json in .*finished evaluation"):
        write_report(tmp_path)


@pytest.mark.parametrize("key", ["version", "config", "policy", "rows"])
def test_a_missing_top_level_key_is_named(tmp_path: Path, key: str) -> None:
    results = drawn_results()
    del results[key]
    with pytest.raises(ValueError, match=f"results.json lacks the key '{key}'"):
        written(tmp_path, results)


@pytest.mark.parametrize("key", ["sampler", "select", "n", "accuracy", "ci_low", "ci_high", "num_problems"])
def test_a_missing_row_key_is_named_with_its_row(tmp_path: Path, key: str) -> None:
    results = drawn_results()
    del results["rows"][3][key]
    with pytest.raises(ValueError, match=rf"rows\[3\] lacks the key '{key}'"):
        written(tmp_path, results)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("accuracy", "0.5", r"rows\[0\]\.accuracy must be a number; a string was given"),
        ("accuracy", 72.0, r"rows\[0\]\.accuracy must be a fraction in \[0, 1\]; 72"),
        ("accuracy", math.nan, r"rows\[0\]\.accuracy must be a number; null was given"),
        ("n", 1.5, r"rows\[0\]\.n must be a whole number"),
        ("n", 0, r"rows\[0\]\.n must be at least 1"),
        ("sampler", None, r"rows\[0\]\.sampler must be a string; null was given"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, key: str, value: Any, says: str) -> None:
    results = drawn_results()
    results["rows"][0][key] = value
    with pytest.raises(ValueError, match=says):
        written(tmp_path, results)


def test_text_that_is_not_json_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json is not JSON"):
        write_report(tmp_path)


def test_a_correlation_that_is_not_a_number_is_a_dash(tmp_path: Path) -> None:
    results = drawn_results()
    results["label_quality"]["correlation"] = math.nan
    assert "correlation\u2013" in without_spaces(Page(written(tmp_path, results)).text).replace(" ", "")


# ---- the headline ----


def told(tmp_path: Path, change: dict[str, float]) -> tuple[str, str, str]:
    """Return the headline after a change of the first comparison and the accuracy behind it."""
    results = drawn_results()
    comparison = results["comparisons"][0]
    majority = next(
        r["accuracy"]
        for r in results["rows"]
        if r["select"] == "majority" and r["n"] == 16 and r["temperature"] == 0.7
    )
    for best in results["rows"]:
        if (best["temperature"], best["select"], best["aggregate"], best["n"]) == (0.7, "best", "min", 16):
            best["accuracy"] = majority + change["difference"]
    comparison |= change
    written(tmp_path, results)
    said = headline(read_results(tmp_path / "results.json"))
    return said.standing, without_spaces(said.sentence), without_spaces(said.conclusion)


def test_headline_claims_a_gain_if_the_interval_is_above_zero(tmp_path: Path) -> None:
    verdict, sentence, conclusion = told(tmp_path, {"difference": 0.17, "ci_low": 0.1, "ci_high": 0.24})
    assert verdict == "better"
    assert re.fullmatch(
        r"Best-of-16 with the trained PRM solves 72\.0 % \[.+, .+\] of the problems "
        r"and majority-of-16 solves 55\.0 % \[48\.1, 61\.7\], "
        r"a difference of \+17\.0 points \[\+10\.0, \+24\.0\]\.",
        sentence,
    )
    assert conclusion.endswith("best-of-16 (min) beats majority-of-16 on 200 problems.")


def test_headline_claims_nothing_if_the_interval_includes_zero(tmp_path: Path) -> None:
    verdict, sentence, conclusion = told(tmp_path, {"difference": 0.02, "ci_low": -0.03, "ci_high": 0.07})
    assert verdict == "open"
    assert "a difference of +2.0 points [\u22123.0, +7.0]" in sentence
    assert "includes zero" in conclusion
    assert "does not show" in conclusion
    assert "beats" not in sentence + conclusion


def test_headline_says_worse_if_the_interval_is_below_zero(tmp_path: Path) -> None:
    verdict, sentence, conclusion = told(tmp_path, {"difference": -0.06, "ci_low": -0.1, "ci_high": -0.02})
    assert verdict == "worse"
    assert "a difference of \u22126.0 points [\u221210.0, \u22122.0]" in sentence
    assert "does worse than majority-of-16" in conclusion


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (-0.1, 0.0)])
def test_an_interval_that_touches_zero_is_not_a_gain(tmp_path: Path, low: float, high: float) -> None:
    assert told(tmp_path, {"difference": (low + high) / 2, "ci_low": low, "ci_high": high})[0] == "open"


def test_headline_tells_the_first_comparison_not_the_most_favourable(tmp_path: Path) -> None:
    results = drawn_results()
    results["comparisons"][0] |= {"difference": 0.001, "ci_low": -0.05, "ci_high": 0.05}
    results["comparisons"][1] |= {
        "name": "HT best-of-16 (prod) minus HT majority-of-16",
        "difference": 0.3,
        "ci_low": 0.2,
        "ci_high": 0.4,
    }
    written(tmp_path, results)
    assert headline(read_results(tmp_path / "results.json")).standing == "open"


def test_headline_does_not_borrow_accuracies_that_contradict_the_difference(tmp_path: Path) -> None:
    results = drawn_results()
    results["comparisons"][0] |= {"difference": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    written(tmp_path, results)
    said = headline(read_results(tmp_path / "results.json"))
    assert said.sentence.startswith(
        "HT best-of-16 (min) minus HT majority-of-16: a difference of +50.0 points"
    )
    assert [tile.title for tile in said.tiles] == ["greedy"]


@pytest.mark.parametrize(("best", "verdict"), [(0.72, "better"), (0.56, "open"), (0.3, "worse")])
def test_headline_without_comparisons_says_it_is_unpaired(tmp_path: Path, best: float, verdict: str) -> None:
    rows = [
        row("ht", 0.7, "majority", None, 16, 0.5, 900),
        row("ht", 0.7, "best", "mean", 16, 0.9, 900),
        row("ht", 0.7, "best", "min", 16, best, 900),
    ]
    written(tmp_path, drawn_results() | {"rows": rows, "comparisons": []})
    said = headline(read_results(tmp_path / "results.json"))
    assert said.standing == verdict
    assert "no paired comparison" in said.source
    assert f"a difference of {points(best - 0.5)} points." in said.sentence


def test_headline_names_the_samplers_if_they_differ(tmp_path: Path) -> None:
    results = drawn_results()
    results["comparisons"] = results["comparisons"][2:3]
    written(tmp_path, results)
    said = headline(read_results(tmp_path / "results.json"))
    assert without_spaces(said.sentence).startswith("EDU best-of-16 with the trained PRM solves 72.0 %")
    assert "and HT T = 0.7 best-of-16 with the trained PRM" in without_spaces(said.sentence)
    assert (
        "whether EDU best-of-16 (min) is better or worse than HT T = 0.7 best-of-16 (min)"
        in without_spaces(said.conclusion)
    )


def test_greedy_accuracy_comes_from_its_row_if_the_policy_does_not_say_it(tmp_path: Path) -> None:
    results = drawn_results()
    results["policy"] = {}
    results["rows"][0] |= {"accuracy": 0.25, "ci_low": 0.2, "ci_high": 0.3}
    written(tmp_path, results)
    assert read_results(tmp_path / "results.json").greedy == (0.25, 0.2, 0.3)


# ---- table, differences, curves ----


def test_every_row_is_in_the_table_once(tmp_path: Path) -> None:
    results = drawn_results()
    results["rows"].append(dict(results["rows"][5]))
    page = Page(written(tmp_path, results))
    arranged = table(read_results(tmp_path / "results.json").rows)
    assert [group.title for group in arranged.groups] == [
        "Greedy decoding",
        "HT T\u00a0=\u00a00.7",
        "HT T\u00a0=\u00a01",
        "EDU",
    ]
    cells = [
        measured.row
        for group in arranged.groups
        for line in group.lines
        for cell in line.cells
        for measured in cell
    ]
    assert sorted(map(repr, cells)) == sorted(map(repr, read_results(tmp_path / "results.json").rows))
    assert len(
        [attrs for attrs in page.named("span") if (attrs.get("class") or "").split()[:1] == ["cell"]]
    ) == len(results["rows"])
    text = without_spaces(page.text)
    for wanted in results["rows"]:
        assert (
            f"{100 * wanted['accuracy']:.1f} [{100 * wanted['ci_low']:.1f}, {100 * wanted['ci_high']:.1f}]"
            in text
        )


def test_oracle_is_never_the_highest_and_intervals_that_reach_it_are_not_lower(tmp_path: Path) -> None:
    rows = [
        row("ht", 0.7, "majority", None, 8, 0.4, 500),
        row("ht", 0.7, "best", "min", 8, 0.6, 500),
        row("ht", 0.7, "best", "mean", 8, 0.57, 500),
        row("ht", 0.7, "oracle", None, 8, 0.9, 500),
    ]
    written(tmp_path, drawn_results() | {"rows": rows})
    lines = table(read_results(tmp_path / "results.json").rows).groups[0].lines
    marks = {line.title: (line.cells[0][0].is_highest, line.cells[0][0].is_lower) for line in lines}
    assert marks == {
        "majority": (False, True),
        "best (min)": (True, False),
        "best (mean)": (False, False),
        "oracle": (False, False),
    }


def test_zero_is_on_the_axis_of_differences(tmp_path: Path) -> None:
    written(tmp_path, drawn_results())
    arranged = forest(read_results(tmp_path / "results.json").comparisons)
    assert arranged is not None
    assert 0 < arranged.zero < 100
    for whisker in arranged.whiskers:
        assert 0 <= whisker.low < whisker.mid < whisker.high <= 100
        assert (whisker.mid > arranged.zero) == (whisker.comparison.difference > 0)


def test_every_row_but_greedy_is_a_point_of_both_charts_in_both_widths(tmp_path: Path) -> None:
    page = Page(written(tmp_path, drawn_results()))
    tips = [str(attrs["data-tip"]) for attrs in page.named("path") if "data-tip" in attrs]
    for wanted in drawn_rows()[1:]:
        start = (
            f"{100 * wanted['accuracy']:.1f}\u00a0% "
            f"[{100 * wanted['ci_low']:.1f},\u00a0{100 * wanted['ci_high']:.1f}]"
        )
        assert sum(start in tip and f"-of-{wanted['n']}" in tip for tip in tips) >= 4
    assert len(tips) == 4 * (len(drawn_rows()) - 1)


def test_rows_without_tokens_are_counted_not_dropped_silently(tmp_path: Path) -> None:
    results = drawn_results()
    results["rows"][4]["sampled_tokens_per_problem"] = None
    assert "Rows without sampled_tokens_per_problem, not drawn here: 1." in without_spaces(
        Page(written(tmp_path, results)).text
    )


def test_marks_stand_higher_the_more_is_right(tmp_path: Path) -> None:
    page = Page(written(tmp_path, drawn_results()))
    points_drawn = [
        (float(re.findall(r"([\d.]+)\u00a0%", str(a["data-tip"]))[0]), float(str(a["data-y"])))
        for a in page.named("path")
        if "data-tip" in a
    ]
    first_chart = sorted(points_drawn[: len(drawn_rows()) - 1])
    heights = [height for _, height in first_chart]
    assert heights == sorted(heights, reverse=True)


def test_lines_that_differ_in_the_aggregate_alone_look_alike(tmp_path: Path) -> None:
    written(tmp_path, drawn_results())
    lines = series_of(read_results(tmp_path / "results.json").rows)
    assert len(lines) == 3 * (2 + 2 * len(AGGREGATES))
    looks = {
        line.key: {(other.colour, other.dash, other.shape) for other in lines if other.key == line.key}
        for line in lines
    }
    assert all(len(look) == 1 for look in looks.values())
    assert len({next(iter(look)) for look in looks.values()}) == len(looks)


@pytest.mark.parametrize(("low", "high"), [(0.0, 100.0), (41.2, 43.9), (55.0, 55.0), (3.0, 3.001)])
def test_ticks_are_few_and_cover_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert len(ticks) <= 9


@pytest.mark.parametrize(("low", "high"), [(60.0, 1000.0), (61.0, 64.0), (1.0, 1e6), (5.0, 5.0)])
def test_log_ticks_lie_inside_the_range(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert ticks
    assert all(low <= tick <= high for tick in ticks)


def test_labels_are_spread_in_order_and_inside() -> None:
    placed = spread([50, 51, 10, 99, 98], gap=10, low=0, high=100)
    assert placed == [50, 60, 10, 100, 90]
    assert spread([5, 5], gap=10, low=0, high=100) == [5, 15]


# ---- trees ----


def test_every_sampled_token_is_in_one_node(tmp_path: Path) -> None:
    drawn = drawn_trees()
    written(tmp_path, drawn_results(), drawn)
    for wanted, shown in zip(drawn, read_trees(tmp_path / "trees.json") or [], strict=True):
        texts = [token[0] for node in shown["nodes"] for token in node["tokens"]]
        assert sorted(texts) == sorted(token for branch in wanted["branches"] for token in branch["tokens"])
        assert shown["num_tokens"] == len(texts)
        assert shown["num_path_tokens"] == sum(
            len(path_of(wanted["branches"], leaf)) for leaf in range(len(wanted["branches"]))
        )


def test_walking_down_the_nodes_spells_every_path(tmp_path: Path) -> None:
    drawn = drawn_trees()
    written(tmp_path, drawn_results(), drawn)
    for wanted, shown in zip(drawn, read_trees(tmp_path / "trees.json") or [], strict=True):
        spelled = {}
        for node in shown["nodes"]:
            if node["is_leaf"]:
                walk: list[str] = []
                here = node
                while here is not None:
                    walk = [token[0] for token in here["tokens"]] + walk
                    here = None if here["parent"] is None else shown["nodes"][here["parent"]]
                spelled[node["branch_idx"]] = walk
        branches = wanted["branches"]
        assert spelled == {
            leaf: [branches[b]["tokens"][i] for b, i in path_of(branches, leaf)]
            for leaf in range(len(branches))
        }


def test_a_fork_has_the_going_branch_first_and_the_forced_one_after(tmp_path: Path) -> None:
    drawn = tree(
        "p",
        "q",
        "1",
        [
            (None, 0, "a|b|c|d", {1: 1.5}, "1", True),
            (0, 1, "B|x", {0: 1.5}, "2", False),
            (0, 3, "D", {}, "3", False),
        ],
    )
    written(tmp_path, drawn_results(), [drawn])
    nodes = (read_trees(tmp_path / "trees.json") or [])[0]["nodes"]
    assert [
        ("".join(t[0] for t in n["tokens"]), n["parent"], n["is_forced"], n["num_correct"], n["num_leaves"])
        for n in nodes
    ] == [
        ("a", None, False, 1, 3),
        ("bc", 0, False, 1, 2),
        ("d", 1, False, 1, 1),
        ("D", 1, True, 0, 1),
        ("Bx", 0, True, 0, 1),
    ]


@pytest.mark.parametrize("parent", [0, 1])
def test_two_branches_that_leave_at_one_place_are_siblings(tmp_path: Path, parent: int) -> None:
    drawn = tree(
        "p",
        "q",
        "1",
        [(None, 0, "a|b", {}, "1", True), (0, 1, "B", {}, "2", False), (parent, 1, "C", {}, "3", False)],
    )
    written(tmp_path, drawn_results(), [drawn])
    nodes = (read_trees(tmp_path / "trees.json") or [])[0]["nodes"]
    assert [(node["parent"], node["tokens"][0][0]) for node in nodes] == [
        (None, "a"),
        (0, "b"),
        (0, "B"),
        (0, "C"),
    ]


def test_a_fork_before_the_first_token_keeps_an_empty_root(tmp_path: Path) -> None:
    drawn = tree("p", "q", "1", [(None, 0, "a|b", {0: 1.4}, "1", True), (0, 0, "A", {0: 1.4}, "2", False)])
    written(tmp_path, drawn_results(), [drawn])
    nodes = (read_trees(tmp_path / "trees.json") or [])[0]["nodes"]
    assert [(node["parent"], len(node["tokens"])) for node in nodes] == [(None, 0), (0, 2), (0, 1)]


def test_a_label_stands_where_its_last_token_is_and_agrees_with_the_leaves_below(tmp_path: Path) -> None:
    drawn = drawn_trees()
    written(tmp_path, drawn_results(), drawn)
    for wanted, shown in zip(drawn, read_trees(tmp_path / "trees.json") or [], strict=True):
        steps = [(node, step) for node in shown["nodes"] for step in node["steps"]]
        assert len(steps) == len(wanted["fragments"])
        for node, step in steps:
            assert step["after"] == len(node["tokens"])
            assert (step["label"]["num_correct"], step["label"]["num_total"]) == (
                node["num_correct"],
                node["num_leaves"],
            )


def test_a_fragment_listed_for_several_branches_is_shown_once_and_may_span_a_fork(tmp_path: Path) -> None:
    drawn = tree("p", "q", "1", [(None, 0, "a|b|c|d", {}, "1", True), (0, 2, "C|D", {}, "2", False)])
    label = {"value": 0.5, "num_correct": 1, "num_total": 2, "low": 0.1, "high": 0.9}
    drawn["fragments"] = [
        {"branch_idx": 0, "start": 0, "end": 1, "label": label, "score": 0.4},
        {"branch_idx": 1, "start": 0, "end": 1, "label": label, "score": 0.4},
        {"branch_idx": 1, "start": 1, "end": 3, "label": None, "score": None},
    ]
    written(tmp_path, drawn_results(), [drawn])
    nodes = (read_trees(tmp_path / "trees.json") or [])[0]["nodes"]
    assert [
        [(step["after"], step["num_tokens"], step["score"]) for step in node["steps"]] for node in nodes
    ] == [
        [(1, 1, 0.4)],
        [],
        [(1, 2, None)],
    ]


@pytest.mark.parametrize(
    ("where", "change", "says"),
    [
        ("branch", {"tokens": None}, r"trees\.json\[0\]\.branches\[1\]\.tokens must be a list"),
        ("branch", {"entropies": [0.1]}, r"branches\[1\]\.entropies must have one entry for each"),
        ("branch", {"parent_idx": 7}, r"branches\[1\]\.parent_idx must be the index of an earlier branch; 7"),
        (
            "branch",
            {"parent_idx": None},
            r"branches\[1\]\.parent_idx must be null for the first branch and for no other",
        ),
        ("branch", {"fork": 999}, r"branches\[1\]\.fork must be a position in the parent's path"),
        ("fragment", {"end": 999}, r"fragments\[1\] must cover tokens of a path"),
        ("fragment", {"label": {"value": 0.5}}, r"fragments\[1\]\.label lacks the key 'num_correct'"),
        ("tree", {"branches": []}, r"branches is empty"),
        ("tree", {"tau": "one"}, r"trees\.json\[0\]\.tau must be a number"),
    ],
)
def test_a_tree_that_does_not_hold_together_is_named(
    tmp_path: Path, where: str, change: dict[str, Any], says: str
) -> None:
    drawn = drawn_trees()
    changed = {"tree": drawn[0], "branch": drawn[0]["branches"][1], "fragment": drawn[0]["fragments"][1]}[
        where
    ]
    changed |= change
    with pytest.raises(ValueError, match=says):
        written(tmp_path, drawn_results(), drawn)


# ---- numbers as words ----


def test_numbers_are_written_as_people_read_them() -> None:
    assert [points(value) for value in (0.17, -0.005, 0.0, -0.0001)] == ["+17.0", "\u22120.5", "0.0", "0.0"]
    assert [
        parameters(number).replace("\u00a0", " ") for number in (950, 861312, 7_620_000_000, 72_700_000_000)
    ] == [
        "950",
        "861 k",
        "7.62 B",
        "72.7 B",
    ]
    assert [duration(seconds).replace("\u00a0", " ") for seconds in (0.42, 75, 402.3, 7261)] == [
        "0.4 s",
        "1 min 15 s",
        "6 min 42 s",
        "2 h 1 min",
    ]


def test_an_axis_on_which_all_values_are_equal_has_two_ticks() -> None:
    for value in (0.0, 0.5, 1.0, 100.0):
        ticks = nice_ticks(value, value)
        assert len(ticks) >= 2 and ticks[0] <= value <= ticks[-1]


# ---- the default search, the origin, and the training ----


def default_rows() -> list[dict[str, Any]]:
    return [
        row("ht", 0.0, "greedy", None, 1, 0.5, 60),
        row("ht", 0.7, "majority", None, 16, 0.55, 900),
        row("ht", 0.7, "best", "min", 16, 0.3, 900),
        row("edu", 0.0, "policy-weighted", "last", 16, 0.7, 400),
        row("edu", 0.0, "policy-weighted", "min", 16, 0.8, 400),
    ]


def compared_by(name: str, difference: float, half: float = 0.04) -> dict[str, Any]:
    return {
        "name": name,
        "difference": difference,
        "ci_low": difference - half,
        "ci_high": difference + half,
        "num_problems": 200,
    }


def default_results() -> dict[str, Any]:
    return drawn_results() | {
        "rows": default_rows(),
        "comparisons": [
            compared_by("HT T=0.7 best-of-16 (min) minus HT T=0.7 majority-of-16", -0.25),
            compared_by("EDU policy-weighted vote of 16 (min) minus HT T=0.7 majority-of-16", 0.25),
            compared_by("EDU policy-weighted vote of 16 (min) minus HT greedy", 0.3),
        ],
    }


def headline_of(tmp_path: Path, results: dict[str, Any]) -> Any:
    written(tmp_path, results)
    return headline(read_results(tmp_path / "results.json"))


def test_headline_leads_with_the_default_search_against_majority_and_greedy(tmp_path: Path) -> None:
    said = headline_of(tmp_path, default_results())
    assert said.standing == "better"
    assert re.fullmatch(
        r"The default search, tree-vote of 16 leaves, solves 80\.0 % \[.+\] of the problems and "
        r"majority-of-16 of HT T = 0\.7 samples solves 55\.0 % \[.+\], "
        r"a difference of \+25\.0 points \[\+21\.0, \+29\.0\]\.",
        without_spaces(said.sentence),
    )
    beside = "Against a single greedy solution it is +30.0 points [+26.0, +34.0]."
    assert without_spaces(said.conclusion).endswith(beside)
    assert "the default of forkpoint search" in said.source and "place in results.json" not in said.source
    titles = [tile.title for tile in said.tiles]
    assert titles == ["greedy", "majority-of-16", "policy-weighted-of-16 (min)"]
    assert "tree-vote, the default search" in said.tiles[2].note


def test_headline_of_the_default_search_does_not_depend_on_its_outcome(tmp_path: Path) -> None:
    results = default_results()
    results["rows"][4]["accuracy"] = 0.45
    results["comparisons"][0] = compared_by("HT T=0.7 best-of-16 (min) minus HT T=0.7 majority-of-16", 0.3)
    results["rows"][2]["accuracy"] = 0.85
    results["comparisons"][1] |= {"difference": -0.1, "ci_low": -0.15, "ci_high": -0.05}
    said = headline_of(tmp_path, results)
    assert said.standing == "worse" and said.sentence.startswith("The default search, tree-vote")


def test_headline_of_an_old_file_compares_the_rows_of_the_default_search(tmp_path: Path) -> None:
    results = default_results()
    results["comparisons"] = results["comparisons"][:1]
    said = headline_of(tmp_path, results)
    assert said.sentence.startswith("The default search, tree-vote") and "+25.0 points." in said.sentence
    assert said.standing == "better" and "No paired comparison" in said.source


@pytest.mark.parametrize("gone", ["policy-weighted", "majority"])
def test_headline_without_rows_of_the_default_search_is_the_usual_one(tmp_path: Path, gone: str) -> None:
    results = default_results()
    results["rows"] = [row for row in results["rows"] if row["select"] != gone]
    said = headline_of(tmp_path, results)
    assert "default search" not in said.sentence and "place in results.json" in said.source


def test_the_default_of_the_report_is_that_of_the_search() -> None:
    default = inspect.signature(search).parameters["method"].default[0]
    method = METHODS[default]
    assert (default, method.choose) == (DEFAULT_SEARCH, DEFAULT_SELECT) and method.search == "tree"


ORIGIN = {
    "date": "2026-12-01T09:00:00+00:00",
    "commit": "0ceb4df12345",
    "command": "forkpoint evaluate 'lab:test?num=3' --prm <prm>",
    "version": "9.8.7",
    "policy": "models/<policy>",
    "prm": "runs/<prm>",
}


def test_the_page_says_what_made_it(tmp_path: Path) -> None:
    page = Page(written(tmp_path, drawn_results() | {"version": 1, "origin": ORIGIN}))
    for value in ORIGIN.values():
        assert value in page.text
    assert "lab policy" not in page.text, "the hash of the policy gives way to its name"


def test_the_page_of_an_old_file_says_what_it_knows(tmp_path: Path) -> None:
    results = drawn_results() | {"version": 1}
    results["config"] = {"policy": "models/old", "prm": "runs/old"}
    page = Page(written(tmp_path, results))
    assert "models/old" in page.text and "runs/old" in page.text
    assert "version not recorded" in page.text


def journal(num_steps: int, gain: float = 0.05, auc: float | None = 0.75) -> str:
    rows: list[dict[str, Any]] = []
    for step in range(1, num_steps + 1):
        rows.append({"key": f"step/{step}", "step": step, "loss": 0.7 - 0.4 * step / num_steps})
        if step % 10 == 0:
            check = dict.fromkeys(("gain_low", "gain_high", "ece", "mean_score", "mean_label"), 0.125)
            check |= {"loss": 0.6 - 0.2 * step / num_steps, "constant": 0.4, "constant_loss": 0.65}
            check |= {"gain": gain, "num_problems": 7, "num_steps": 99}
            rows.append({"key": f"held_out/{step}", "step": step, "held_out": check | {"auc": auc}})
    return "".join(json.dumps(item) + "\n" for item in rows)


def put_journal(prm: Path, text: str) -> None:
    (prm / "training").mkdir(parents=True)
    (prm / "training" / "journal.jsonl").write_text(text)


@pytest.mark.parametrize("where", ["prm", "elsewhere"])
def test_the_learning_curve_is_drawn_from_the_journal_of_the_training(where: str, tmp_path: Path) -> None:
    put_journal(tmp_path / where, journal(120) + '{"key":"step/121","st')
    results = drawn_results()
    if where == "elsewhere":
        results["origin"] = ORIGIN | {"prm": str(tmp_path / where)}
    page = Page(written(tmp_path, results))
    for part in ("Learning curve", "7 held-out problems", "AUC", "0.750", "better than a constant does"):
        assert part in page.text, part
    training = training_of(tmp_path, read_results(tmp_path / "results.json"))
    assert training is not None
    for drawing in learning_charts(training):
        assert len(drawing.marks) == 12 and drawing.train_path.count("L") == 39
        frame = drawing.frame
        points = re.findall(r"(\d+\.\d) (\d+\.\d)", drawing.train_path + drawing.held_out_path)
        assert len(points) == 40 + 12
        assert all(frame.left <= float(x) <= frame.width - frame.right for x, _ in points)
        assert all(frame.top <= float(y) <= frame.height - frame.bottom for _, y in points)
        assert float(points[0][1]) < float(points[39][1]), "a smaller loss is lower"
        assert drawing.constant_y is not None and frame.top <= drawing.constant_y < float(points[40][1])
        for left, right in pairwise(drawing.x_ticks):
            assert right.at - left.at > 6.7 * (len(left.text) + len(right.text)) / 2, "labels are apart"
        for upper, lower in pairwise(drawing.y_ticks):
            assert abs(upper.at - lower.at) > 14


def test_a_prm_no_better_than_a_constant_is_said_to_be_so(tmp_path: Path) -> None:
    put_journal(tmp_path / "prm", journal(20, gain=-0.01, auc=None))
    assert "no better than a constant" in Page(written(tmp_path, drawn_results())).text


def test_a_training_without_held_out_problems_has_a_curve_of_its_own(tmp_path: Path) -> None:
    put_journal(tmp_path / "prm", journal(9))
    page = Page(written(tmp_path, drawn_results()))
    assert "No problem was held out" in page.text and "training, means over blocks" in page.text


@pytest.mark.parametrize("text", [None, ""])
def test_a_prm_without_losses_has_no_curve(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        put_journal(tmp_path / "old", text)
    results = drawn_results() | {"origin": ORIGIN | {"prm": str(tmp_path / "old")}}
    assert "There is no journal of the PRM\u2019s training" in Page(written(tmp_path, results)).text


def test_a_damaged_journal_is_named_with_its_line(tmp_path: Path) -> None:
    put_journal(tmp_path / "prm", journal(3) + "nonsense\n")
    with pytest.raises(ValueError, match=r"journal\.jsonl line 4 is not a JSON object"):
        written(tmp_path, drawn_results())


def test_the_command_line_is_that_of_a_shell() -> None:
    argv = ["/venv/bin/forkpoint", "evaluate", "lab:test?num=3", "--out", "my run"]
    assert command_line(argv) == "forkpoint evaluate 'lab:test?num=3' --out 'my run'"
    assert command_line(["/src/forkpoint/__main__.py", "demo"]) == "forkpoint demo"
    assert command_line(["study.py", "a"]) == "study.py a"


def test_the_commit_is_that_of_a_checkout_which_tracks_the_package(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *name, *arguments], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1\n")
    assert commit_of(package) is None
    git("init")
    (tmp_path / "other.txt").write_text("1\n")
    git("add", "other.txt")
    git("commit", "-m", "x")
    assert commit_of(package) is None, "installed inside of another checkout"
    git("add", ".")
    git("commit", "-m", "y")
    found = commit_of(package)
    assert found is not None and re.fullmatch("[0-9a-f]{12}", found)
    (package / "code.py").write_text("2\n")
    assert commit_of(package) == f"{found}-dirty"
