"""Cards: the README of a PRM or a data set on the hub, with its metadata at the top.

Invariant: everything on a card is a recorded fact, a statement of the publisher, or the text below. A card
contains no local path and no token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from forkpoint.hub.facts import EvaluationFacts, LabelFacts, TrainingFacts
from forkpoint.hub.publication import Publication
from forkpoint.prms.layout import PRMFormat

NOT_RECORDED = "not recorded"
TAGS = ["forkpoint", "process-reward-model", "reward-model"]
PRIVATE = re.compile(r"(?<![\w/.:-])(?:/[\w.@-]+){2,}|\bhf_\w{16,}|[A-Za-z]:\\\w+")
"""An absolute path, or a hub token."""
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
"""The size categories of the hub, by the number of digits above three."""
PRM_LIMITS = """\
This model scores the steps of solutions. It is intended for choosing among several solutions of a
problem, for steering a search, and for finding the first wrong step. A score estimates how often
solutions that continue from a step reach the right answer under the policy that the labels come from; it
does not prove that the step is right. The scores have not been tested on other kinds of problems, other
languages, other ways of cutting solutions into steps, or policies other than those named here. A policy
that is trained against this model can find wrong solutions that score well."""
LABEL_LIMITS = """\
These labels are intended for training and testing process reward models. A label summarises how solutions
that share a step end, as judged by an automatic grader of answers. It is not a human judgement of the
step: a wrong step that is repaired later has a high label, and the grader can make mistakes. Test
questions may be among the problems; `forkpoint doctor FILE --against TEST_FILE` looks for them."""
COLUMNS_TEXT = """\
Each row is one solution: `problem_id`, `question`, `steps` (concatenated without a separator, they are
the solution), `is_correct` (whether its answer is right) and `labels`, one for each step: `value` in [0,
1], the outcomes that it is based on (`num_correct` of `num_total`, `effective_size`), and its 95 %
interval, `low` to `high`."""


def prm_card(
    repo_id: str,
    said: Publication,
    prm_format: PRMFormat,
    training: TrainingFacts | None,
    labels: LabelFacts | None,
    evaluation: EvaluationFacts | None,
) -> ModelCard:
    """Return the card of a PRM.

    Raises ValueError if `said` names another base model than is recorded, or the card would contain a path or
    a token.
    """
    recorded = training.base if training else None
    if recorded and said.base_model and recorded != said.base_model:
        raise ValueError(
            f"the PRM was trained from {recorded}, not from {said.base_model}; omit --base-model"
        )
    base_model = said.base_model or recorded
    name = repo_id.rpartition("/")[2]
    data = ModelCardData(
        license=said.license,
        library_name="forkpoint",
        pipeline_tag="token-classification",
        tags=TAGS,
        base_model=base_model,
        datasets=list(said.datasets) or None,
        model_name=name,
        eval_results=_eval_results(evaluation, prm_format) if evaluation else None,
    )
    if evaluation is None:
        data.pop("model_name")
    fingerprint = (
        None
        if training is None or training.base
        else f"a directory with the fingerprint {training.config['base']}"
    )
    base = {"base model": base_model or fingerprint}
    sections = [
        ("What it is", _format_text(prm_format)),
        ("Base model", _table(base)),
        ("Data", _labels_text(labels, said)),
        ("Training", _training_text(training)),
        ("Evaluation", _evaluation_text(evaluation, prm_format)),
        ("Cost", _cost_text(labels, training)),
        ("Intended use and limits", PRM_LIMITS),
        ("Use", _prm_use(repo_id)),
    ]
    content = _content(
        name,
        data.to_yaml(),
        "A process reward model, which scores every step of a solution in [0, 1].",
        sections,
    )
    return ModelCard(content)


def labels_card(repo_id: str, said: Publication, labels: LabelFacts, path: str) -> DatasetCard:
    """Return the card of a data set of labels stored in the file `path`.

    Raises ValueError if the card would contain a path or a token.
    """
    name = repo_id.rpartition("/")[2]
    data = DatasetCardData(
        license=said.license,
        size_categories=SIZES[max(0, len(str(labels.num_solutions)) - 3)],
        task_categories=["token-classification"],
        source_datasets=list(said.datasets) or None,
        annotations_creators=["machine-generated"],
        pretty_name=name,
        tags=TAGS,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": path}]}],
    )
    sections = [
        ("What it is", COLUMNS_TEXT),
        ("Method", _labels_text(labels, said)),
        ("Cost", _cost_text(labels, None)),
        ("Intended use and limits", LABEL_LIMITS),
        ("Use", _labels_use(repo_id)),
    ]
    return DatasetCard(
        _content(
            name,
            data.to_yaml(),
            "Solutions of problems, cut into steps, with a label for each step.",
            sections,
        )
    )


def _content(name: str, metadata: str, summary: str, sections: Sequence[tuple[str, str]]) -> str:
    body = "\n\n".join([f"# {name}", summary, *(f"## {title}\n\n{text}" for title, text in sections)])
    content = f"---\n{metadata}\n---\n\n{body}\n"
    private = PRIVATE.search(content)
    if private:
        raise ValueError(f"the card would contain {private[0][:12]!r}..., a local path or a token; reword it")
    return content


def _table(facts: Mapping[str, object]) -> str:
    """Return facts as table rows; None is shown as not recorded."""
    return _rows(
        ("", ""), ((name, NOT_RECORDED if value is None else value) for name, value in facts.items())
    )


def _rows(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
    return text.replace("|", "\\|").replace("\n", " ")


def _format_text(prm_format: PRMFormat) -> str:
    place = "takes the place of its line end" if prm_format.replaces_line_end else "follows it"
    read_at = f"the tag {prm_format.tag!r} of each step, which {place}"
    score = (
        f"softmax over the tokens {prm_format.good!r} and {prm_format.bad!r}"
        if prm_format.head == "tokens"
        else "softmax over two classes; class 1 is good"
    )
    facts = {
        "prompt": repr(prm_format.template),
        "scores are read at": read_at,
        "score": score,
        "steps": f"{prm_format.segmentation}"
        + (f", tau {prm_format.rule.tau:g} nats" if prm_format.segmentation == "entropy" else ""),
        "maximum length, tokens": prm_format.max_length,
        "score of a solution": f"{prm_format.aggregate} of the step scores",
    }
    return _table(facts)


def _labels_text(labels: LabelFacts | None, said: Publication) -> str:
    if labels is None:
        return _table({"problems": said.problem_set, "labels": None})
    run, derived = labels.run or {}, labels.labels or {}
    facts: dict[str, object] = {
        "method": labels.method,
        "problems": said.problem_set,
        "number of problems": labels.num_problems,
        "policy": run.get("policy"),
        "plan (source of the outcomes)": labels.plan,
        "value (summary of the outcomes)": labels.value,
        "steps": derived.get("segmentation"),
        "solutions": f"{labels.num_solutions:,}, of which {labels.num_correct:,} are right",
        "step labels": labels.num_steps,
    }
    if labels.plan == "leaves":
        facts["weighting of leaves"] = derived.get("weighting")
    for name in ("tree", "solutions", "rollouts", "search"):
        if run.get(name):
            facts[f"{name}, settings"] = ", ".join(f"{key} {value}" for key, value in run[name].items())
    return _table(facts)


def _training_text(training: TrainingFacts | None) -> str:
    if training is None:
        return f"The training is {NOT_RECORDED}."
    names = [
        "learning_rate", "num_epochs", "batch_size", "packing", "label_weighting", "warmup_share",
        "weight_decay", "max_solutions_per_problem", "lora_rank", "dtype", "seed",
    ]  # fmt: skip
    report = training.report
    facts: dict[str, object] = {name: training.config.get(name) for name in names}
    facts["loss"] = "cross-entropy with soft labels at the step tags"
    facts |= {
        "training solutions": report["num_rows"],
        "labelled steps": report["num_steps_labelled"],
        "solutions refused": report["num_refused"],
        "optimiser steps": report["num_steps"],
        "last loss": float(report["loss"]),
        "forkpoint": training.version,
    }
    return _table(facts)


def _best_rows(evaluation: EvaluationFacts, prm_format: PRMFormat) -> list[dict[str, Any]]:
    """Return the best-of-N rows with the PRM's own aggregate, at the largest N."""
    rows = [
        row
        for row in evaluation.results["rows"]
        if row["select"] == "best" and row["aggregate"] == prm_format.aggregate
    ]
    largest = max((row["n"] for row in rows), default=0)
    return [row for row in rows if row["n"] == largest]


def _sampler(row: Mapping[str, Any]) -> str:
    return {"ht": f"samples at T = {row['temperature']:g}", "edu": "leaves of EDU trees", "greedy": "greedy"}[
        row["sampler"]
    ]


def _eval_results(evaluation: EvaluationFacts, prm_format: PRMFormat) -> list[EvalResult]:
    name = evaluation.problems or NOT_RECORDED
    return [
        EvalResult(
            task_type="text-generation",
            task_name="choosing among solutions",
            dataset_type=re.split(r"[:.?]", name)[0] if evaluation.problems else "unknown",
            dataset_name=name,
            metric_type="accuracy",
            metric_name=f"best-of-{row['n']} ({row['aggregate']}) of {_sampler(row)}",
            metric_value=round(row["accuracy"], 4),
        )
        for row in _best_rows(evaluation, prm_format)
    ]


def _evaluation_text(evaluation: EvaluationFacts | None, prm_format: PRMFormat) -> str:
    if evaluation is None:
        return f"The evaluation is {NOT_RECORDED}."
    results = evaluation.results
    best = _best_rows(evaluation, prm_format)
    largest = max((row["n"] for row in best), default=1)
    others = [
        row
        for row in results["rows"]
        if row["select"] == "greedy" or (row["n"] == largest and row["select"] in ("majority", "oracle"))
    ]
    rows = [
        (
            "greedy" if row["select"] == "greedy" else f"{row['select']} of {row['n']} {_sampler(row)}",
            f"{row['accuracy']:.3f}",
            f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
            row["num_problems"],
            f"{row['sampled_tokens_per_problem']:.0f}",
        )
        for row in (*best, *others)
    ]
    facts = {
        "problems": evaluation.problems,
        "policy": results["policy"]["name"],
        "selected by": f"{prm_format.aggregate} of the step scores",
        "evaluated PRM": "this one, as its fingerprint shows"
        if evaluation.is_of_this_prm
        else f"this one, as the publisher states; {NOT_RECORDED}",
    }
    parts = [_table(facts), _rows(("accuracy", "", "95 % interval", "problems", "tokens per problem"), rows)]
    differences = [
        (
            item["name"],
            f"{item['difference']:+.3f}",
            f"{item['ci_low']:+.3f} to {item['ci_high']:+.3f}",
            item["num_problems"],
        )
        for item in results.get("comparisons") or ()
    ]
    if differences:
        parts.append(_rows(("paired difference", "", "95 % interval", "problems"), differences))
    if results.get("first_error"):
        found = results["first_error"]
        parts.append(
            f"First wrong step: F1 {found['f1']:.3f} at threshold {found['threshold']:.2f} "
            f"on {found['num_solutions']:,} solutions."
        )
    return "\n\n".join(parts)


def _cost_text(labels: LabelFacts | None, training: TrainingFacts | None) -> str:
    cost = ((labels.summary or {}) if labels else {}).get("cost") or {}
    facts: dict[str, object] = {
        f"labels: {name.replace('_', ' ')}": cost.get(name)
        for name in ("sampled_tokens", "prompt_tokens", "reused_tokens")
    }
    if training is not None:
        facts["training: tokens per epoch without padding"] = training.report.get("num_tokens")
    return _table(facts)


def _prm_use(repo_id: str) -> str:
    return f"""\
    forkpoint score {repo_id} solutions.jsonl --out scored.jsonl

Each line of `solutions.jsonl` has the keys `question` and `steps` (or `solution`). In Python:

    from forkpoint import load_prm

    load_prm("{repo_id}").score(["What is 7 + 12?"], [["7 + 12 = 19.\\n", "The answer is 19."]])"""


def _labels_use(repo_id: str) -> str:
    return f"""\
    forkpoint convert "hub:{repo_id}?split=train" --from forkpoint --to forkpoint --out labels.jsonl
    forkpoint train labels.jsonl --base MODEL --out prm

`--to` can also write math-shepherd, er-prm, openrlhf, rlhflow, trl and processbench."""
