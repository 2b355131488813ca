#!/usr/bin/env bash
# datasets 5.2.0: a label of 0.02 and a rating of -1 become True, without a word, in a column that is boolean;
# int64 refuses.
#
# Behaviour:  cast() to List(bool) gives True for everything but 0. map() takes the type of its first batch
#             (1,000 rows): if those rows hold booleans, later rows [0.02, 0.9] are stored as [True, True].
#             With integers first, the same map raises "Float value 0.02 was truncated", and so does a cast to
#             List(int64).
# Expected:   the error in both cases, or a column of floats.
# Matters:    TRL's stepwise format has boolean labels, PRM800K's ratings are -1, 0, 1, Monte-Carlo labels are
#             soft. Putting one into the other makes wrong steps positive, and the loss goes down all the
#             same.
# Seen:       [-1, 0, 1] -> [True, False, True]; row 1000 [0.02, 0.9] -> [True, True]; ArrowInvalid for int64
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install datasets==5.2.0 pyarrow==26.0.1
export HF_HOME="$work/home" HF_HUB_OFFLINE=1
"$work/venv/bin/python" - <<'PY'
import datasets
import pyarrow
from datasets import Dataset, List, Value

datasets.disable_progress_bars()
ratings = Dataset.from_dict({"labels": [[-1, 0, 1], [0, 0]]}).cast_column("labels", List(Value("bool")))
print(ratings["labels"][:])
assert ratings["labels"][:] == [[True, False, True], [False, False]]

rows = Dataset.from_dict({"id": list(range(1001))})
mapped = rows.map(lambda row: {"labels": [row["id"] % 2 == 0] if row["id"] < 1000 else [0.02, 0.9]})
print(mapped.features["labels"], mapped[1000])
assert mapped.features["labels"] == List(Value("bool")) and mapped[1000]["labels"] == [True, True]

for attempt in (
    lambda: rows.map(lambda row: {"labels": [row["id"] % 2] if row["id"] < 1000 else [0.02, 0.9]}),
    lambda: Dataset.from_dict({"labels": [[0.02, 0.9]]}).cast_column("labels", List(Value("int64"))),
):
    try:
        attempt()
    except pyarrow.lib.ArrowInvalid as error:
        print(error)
    else:
        raise SystemExit("int64 accepts soft labels now")
PY
