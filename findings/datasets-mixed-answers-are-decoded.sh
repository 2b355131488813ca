#!/usr/bin/env bash
# datasets 5.2.0: one number among text answers in a JSON-lines file turns the text answers into numbers,
# booleans, lists and None.
#
# Behaviour:  a column of strings stays a column of strings. If one row holds a JSON number or list instead,
#             the column gets the type Json, and every string in it that happens to be JSON is decoded on
#             reading: "007" -> 7, "1.50" -> 1.5, "true" -> True, "null" -> None, "NaN" -> None, "[1,2]" ->
#             [1, 2], while "12,000" and "x" stay text.
# Expected:   an error, as Dataset.from_list raises for the same rows, or every value as it was in the file.
# Matters:    gold answers of merged data sets mix "72" and 72. The whole column changes type because of one
#             row in thousands; an answer "null" or "NaN" becomes a missing answer, and "1.50" and "007" lose
#             the text a string grader compares.
# Seen:       [7, 1.5, True, None, None, [1, 2], '12,000', 'x', 72]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install datasets==5.2.0 pyarrow==26.0.1
export HF_HOME="$work/home" HF_HUB_OFFLINE=1
"$work/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import datasets

datasets.disable_progress_bars()
texts = ["007", "1.50", "true", "null", "NaN", "[1,2]", "12,000", "x"]


def answers(values, name):
    Path(name).write_text("".join(json.dumps({"answer": value}) + "\n" for value in values))
    return datasets.load_dataset("json", data_files=name, split="train")["answer"][:]


assert answers(texts, "text.jsonl") == texts
mixed = answers([*texts, 72], "mixed.jsonl")
print(mixed)
assert mixed == [7, 1.5, True, None, None, [1, 2], "12,000", "x", 72] and mixed[2] is True
try:
    datasets.Dataset.from_list([{"answer": value} for value in [*texts, 72]])
except Exception as error:
    print(type(error).__name__, error)
else:
    raise SystemExit("from_list accepts mixed answers now")
PY
