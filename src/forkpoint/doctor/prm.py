"""Examine a PRM: are steps read in the right places, with the right weights, and are its scores sound?

Checks that need no weights come first (`reader`). They use built-in solutions and those of a file, if one is
given.
Invariant: a PRM that cannot be read or loaded is a finding, not an exception; a path that does not exist
raises FileNotFoundError. This file does not measure how good the scores are: see `forkpoint evaluate`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from forkpoint.doctor.finding import Finding, ok, problem, warning
from forkpoint.doctor.reader import Reader, directory_of, reader_of
from forkpoint.doctor.samples import ORDINARY, PAIRS, TRICKY, Sample
from forkpoint.doctor.vocabulary import check_vocabulary, num_embeddings
from forkpoint.errors import LayoutError, TooLongError
from forkpoint.prms import load_prm
from forkpoint.prms.families import FAMILIES, OURS
from forkpoint.prms.layout import EncodedSolution
from forkpoint.prms.trl import GOOD_NAMES
from forkpoint.records import Scorer
from forkpoint.select import Aggregate, aggregate

PUBLISHED_IDS: dict[str, tuple[int, ...]] = {
    "math-shepherd": (12902, 648, 387),
    "er-prm": (116624, 489, 482),
    "rlhflow": (271, 10, 12),
    "qwen": (151651,),
}
"""The tokens of the step tag, good and bad in the published checkpoints (docs/reference/prms)."""
SHORTEST = 256
"""Fewest tokens that a PRM should read: with fewer, most solutions do not fit."""
CLASSIFIERS = (OURS, *(name for name, entry in FAMILIES.items() if entry.has_classes))
"""Families that may score by class 1 of a head; our own PRMs do if they have no label tokens."""
TOLERANCE = 1e-4
"""How much a score may change with the rest of the batch."""
HALF_TOLERANCE = 2e-2
"""The same for 16-bit weights, whose rounding differs from batch to batch."""


def examine_prm(
    path_or_id: str | Path,
    device: str = "auto",
    family: str | None = None,
    options: Mapping[str, Any] | None = None,
    solutions: Sequence[Sample] = (),
) -> list[Finding]:
    """Return the findings on a PRM, read as `load_prm` reads it with the same arguments.

    `solutions` are checked in addition to the built-in ones.
    """
    return list(_examine(path_or_id, device, family, options or {}, solutions))


def _examine(
    path_or_id: str | Path,
    device: str,
    family: str | None,
    options: Mapping[str, Any],
    solutions: Sequence[Sample],
) -> Iterator[Finding]:
    directory_of(path_or_id)  # a path that does not exist is an error, not a finding
    try:
        reader = reader_of(path_or_id, family, options)
    except (LayoutError, OSError) as error:
        yield problem("tag", f"no step can be read: {error}")
        return
    layout = list(check_layout(reader, solutions))
    yield from layout
    try:
        prm = load_prm(path_or_id, device, family, **options)
    except (LayoutError, ValueError, RuntimeError, OSError) as error:
        yield problem(
            "weights", f"the model cannot be loaded as a PRM of the {reader.family} family: {error}"
        )
        return
    yield ok("weights", "the checkpoint has every weight of the model and no others")
    if reader.family in CLASSIFIERS and reader.label_ids is None:
        yield check_classes(prm.model.config.id2label)
    vocabulary = check_vocabulary(len(reader.tokenizer), num_embeddings(prm.model))
    yield vocabulary
    if not any(
        finding.verdict == "problem"
        for finding in (vocabulary, *layout)
        if finding.check in ("places", "vocabulary")
    ):
        tolerance = TOLERANCE if prm.model.dtype == torch.float32 else HALF_TOLERANCE
        yield from check_scores(prm, prm.format.aggregate, tolerance, _readable(reader, solutions))


def check_layout(reader: Reader, solutions: Sequence[Sample] = ()) -> Iterator[Finding]:
    """Check whatever needs no weights: tag, labels, places, truncation, max_length and given solutions."""
    rows = [
        reader.encoder.encode(sample.question, sample.steps)
        for sample in ORDINARY
        if _is_readable(reader, sample)
    ]
    read_at = {
        row.input_ids[place] for row in rows for place in row.tag_positions if place < len(row.input_ids)
    }
    names = ", ".join(
        f"{reader.tokenizer.convert_ids_to_tokens(token_id)!r} ({token_id})"
        for token_id in sorted(read_at)[:3]
    )
    if reader.tag_id is not None and read_at - {reader.tag_id}:
        yield problem(
            "tag",
            f"the step tag is the token {reader.tag_id}, but steps are read at {names}: "
            "restore the checkpoint's tokenizer",
        )
    else:
        yield ok("tag", f"steps are read at {names or 'no token'}{' ...' if len(read_at) > 3 else ''}")
    yield _labels(reader, read_at)
    yield _places(reader)
    yield _truncation(reader)
    yield _max_length(reader)
    if solutions:
        yield _solutions(reader, solutions)


def _labels(reader: Reader, read_at: set[int]) -> Finding:
    if reader.label_ids is not None and reader.label_ids[0] == reader.label_ids[1]:
        return problem(
            "labels",
            f"good and bad are the same token ({reader.label_ids[0]}), so every score is 0.5: "
            "name two tokens",
        )
    ids = (*(sorted(read_at) if len(read_at) == 1 else ()), *(reader.label_ids or ()))
    published = PUBLISHED_IDS.get(reader.family)
    if published is not None and ids != published:
        return warning(
            "labels",
            f"step tag, good and bad are {ids}, "
            f"but {published} in the published {reader.family} checkpoints: "
            "restore their tokenizer, unless this PRM was trained with another vocabulary",
        )
    if reader.label_ids is None:
        return ok("labels", "scores do not come from label tokens")
    return ok(
        "labels",
        f"good is token {reader.label_ids[0]}, bad {reader.label_ids[1]}"
        f"{', as published' if published else ''}",
    )


def _places(reader: Reader) -> Finding:
    tag = () if reader.tag_id is None else (str(reader.tokenizer.decode([reader.tag_id])).strip(),)
    tagged = [
        Sample(f"the tag {text!r} inside a step", "What is 1 + 1?", (f"Step 1: 1 {text} 1", "Step 2: 2"))
        for text in tag
        if text
    ]
    wrong, refused, refused_ordinary = [], [], 0
    samples = [*ORDINARY, *TRICKY, *tagged]
    for sample in samples:
        try:
            fault = _misplaced(reader, sample)
        except LayoutError as error:
            refused.append(f"{sample.name}: {error}")
            refused_ordinary += sample in ORDINARY
            continue
        if fault:
            wrong.append(f"{sample.name}: {fault}")
    if wrong:
        return problem(
            "places",
            f"{len(wrong)} of {len(samples)} built-in solutions are read in the wrong places: "
            "restore the tokenizer",
            wrong,
        )
    if refused_ordinary:
        return problem(
            "places",
            f"{refused_ordinary} of {len(ORDINARY)} ordinary solutions are refused: see the reasons below",
            refused,
        )
    unexpected = [line for line in refused if not any(line.startswith(sample.name) for sample in tagged)]
    if unexpected:
        return warning(
            "places",
            f"{len(unexpected)} of {len(samples)} built-in solutions are refused, and none is read wrongly: "
            "avoid such texts",
            unexpected,
        )
    return ok(
        "places",
        f"every step of {len(samples)} built-in solutions has a place of its own; "
        "tags inside a step are harmless or refused",
    )


def _misplaced(reader: Reader, sample: Sample) -> str | None:
    """Return what is wrong with the places of the steps, or None.

    Raises LayoutError if the sample is refused.
    """
    row = reader.encoder.encode(sample.question, sample.steps)
    places = row.tag_positions
    if len(places) != len(sample.steps):
        return f"{len(places)} places for {len(sample.steps)} steps"
    if places != sorted(set(places)) or places[0] < 0 or places[-1] >= len(row.input_ids):
        return f"the places {places} are not one after another within {len(row.input_ids)} tokens"
    if reader.keeps_prefixes:
        for number in range(1, len(sample.steps)):
            head: EncodedSolution = reader.encoder.encode(sample.question, sample.steps[:number])
            end = places[number - 1] + 1
            if head.tag_positions != places[:number] or head.input_ids[:end] != row.input_ids[:end]:
                return f"the tokens of the first {number} steps change with what follows"
    return None


def _truncation(reader: Reader) -> Finding:
    sample = Sample(
        "too long",
        "What is 1 + 1?",
        ("Step 1: " + "1 + 1 = 2. " * (reader.max_length // 2 + 1), "Step 2: The answer is: 2"),
    )
    try:
        row = reader.encoder.encode(sample.question, sample.steps)
    except LayoutError:
        return ok("truncation", f"a solution of more than {reader.max_length} tokens is refused, not cut")
    return problem(
        "truncation",
        f"a solution that is longer than {reader.max_length} tokens is read as {len(row.input_ids)} tokens "
        f"with {len(row.tag_positions)} of {len(sample.steps)} places: "
        "raise the tokenizer's limit, and refuse what is longer",
    )


def _max_length(reader: Reader) -> Finding:
    if reader.num_positions is not None and reader.max_length > reader.num_positions:
        return problem(
            "max_length",
            f"solutions of up to {reader.max_length} tokens are read by a model of "
            f"{reader.num_positions} positions: lower max_length",
        )
    if reader.max_length < SHORTEST:
        return warning(
            "max_length",
            f"the PRM reads at most {reader.max_length} tokens, and most solutions need more: "
            "raise max_length",
        )
    positions = "an unknown number of" if reader.num_positions is None else reader.num_positions
    return ok(
        "max_length",
        f"solutions of up to {reader.max_length} tokens are read by a model of {positions} positions",
    )


def _solutions(reader: Reader, solutions: Sequence[Sample]) -> Finding:
    refused, why = [], Counter[str]()
    for sample in solutions:
        try:
            fault = _misplaced(reader, sample)
        except LayoutError as error:
            fault = str(error)
            why["too long" if isinstance(error, TooLongError) else "does not fit"] += 1
        else:
            why["read in the wrong places"] += fault is not None
        if fault:
            refused.append(f"{sample.name}: {fault}")
    if refused:
        counts = ", ".join(f"{count} {name}" for name, count in why.items() if count)
        return problem(
            "solutions",
            f"{len(refused)} of {len(solutions)} solutions cannot be scored ({counts}): leave them out",
            refused,
        )
    return ok("solutions", f"all {len(solutions)} solutions fit, with one place for each step")


def check_classes(names: Mapping[int, str]) -> Finding:
    """Check that the names of a head's classes say that class 1 is good."""
    if len(names) != 2 or str(names[1]).lower() not in GOOD_NAMES:
        return problem(
            "classes",
            f"the classes are {dict(names)}, and class 1 is read as good: "
            "swap the rows of the head, or rename the classes",
        )
    return ok("classes", f"class 1 is {names[1]!r}, and is read as good")


def check_scores(
    scorer: Scorer, how: Aggregate, tolerance: float, samples: Sequence[Sample]
) -> Iterator[Finding]:
    """Check that scores are in [0, 1], differ, do not depend on the batch, and are higher for right
    solutions.
    """
    together = scorer.score([sample.question for sample in samples], [sample.steps for sample in samples])
    flat = [score for scores in together for score in scores]
    bad = [
        f"{sample.name}: {scores}"
        for sample, scores in zip(samples, together, strict=True)
        if not all(math.isfinite(score) and 0 <= score <= 1 for score in scores)
    ]
    if bad:
        yield problem(
            "finite",
            f"{len(bad)} of {len(samples)} solutions have scores that are not numbers from 0 to 1: "
            "train the PRM again",
            bad,
        )
        return
    yield ok(
        "finite",
        f"{len(flat)} step scores of {len(samples)} solutions are numbers from {min(flat):.3f} to "
        f"{max(flat):.3f}",
    )
    if max(flat) - min(flat) < 1e-6:
        yield problem(
            "constant", f"every step scores {flat[0]:.6f}: the head was not trained, or its weights were lost"
        )
    else:
        yield ok("constant", f"scores differ, by up to {max(flat) - min(flat):.3f}")
    alone = [scorer.score([sample.question], [sample.steps])[0] for sample in samples]
    gaps = [
        max(abs(left - right) for left, right in zip(in_batch, by_itself, strict=True))
        for in_batch, by_itself in zip(together, alone, strict=True)
    ]
    if max(gaps) > tolerance:
        yield problem(
            "batching",
            f"a score changes by {max(gaps):.2g} with the rest of the batch, more than {tolerance:g}: "
            "the model ignores attention masks, so score one solution at a time",
            [
                f"{sample.name}: {gap:.2g}"
                for sample, gap in zip(samples, gaps, strict=True)
                if gap > tolerance
            ],
        )
    else:
        yield ok(
            "batching",
            f"scores alone and in a batch differ by at most {max(gaps):.2g}, less than {tolerance:g}",
        )
    yield _separation(scorer, how)


def _separation(scorer: Scorer, how: Aggregate) -> Finding:
    questions = [pair.question for pair in PAIRS]
    right, wrong = (
        [aggregate(scores, how) for scores in scorer.score(questions, solutions)]
        for solutions in ([pair.right for pair in PAIRS], [pair.wrong for pair in PAIRS])
    )
    num_ordered = sum(good > bad for good, bad in zip(right, wrong, strict=True))
    text = (
        f"{num_ordered} of {len(PAIRS)} built-in right solutions score above the obviously wrong ones "
        f"({how} of the steps)"
    )
    if num_ordered < len(PAIRS):
        return warning(
            "separation",
            f"{text}: check the order of the labels, and the kind of problems that the PRM was trained on",
        )
    return ok("separation", text)


def _readable(reader: Reader, solutions: Sequence[Sample]) -> list[Sample]:
    """Return the built-in samples and the first ones of the file, without those that are refused."""
    samples = [*ORDINARY, *TRICKY, *solutions[: len(ORDINARY)]]
    return [sample for sample in samples if _is_readable(reader, sample)]


def _is_readable(reader: Reader, sample: Sample) -> bool:
    try:
        reader.encoder.encode(sample.question, sample.steps)
    except LayoutError:
        return False
    return True
