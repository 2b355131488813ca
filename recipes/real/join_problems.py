"""Join several problem sets into one file, so that one run labels them all and one PRM learns from them.

    python recipes/real/join_problems.py \\
        "hub:openai/gsm8k?config=main&split=train" math:train.jsonl --out train.jsonl

A row has id, question and answer; read the file with `jsonl:train.jsonl?grader=math`, which also judges
numbers. A set that is incomplete is refused, and so is the file. The ids are those of the sets and must be
unique.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from forkpoint.problems import load_problems
from forkpoint.runs.durable import replace_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problems", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    problems = [problem for spec in args.problems for problem in load_problems(spec)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {"id": problem.id, "question": problem.question, "answer": problem.answer} for problem in problems
    )
    replace_file(args.out, [(json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows])
    load_problems(
        f"jsonl:{args.out}?grader=math"
    )  # refuses duplicate ids, and answers that this grader cannot read
    print(f"{len(problems)} problems: {args.out}")


if __name__ == "__main__":
    main()
