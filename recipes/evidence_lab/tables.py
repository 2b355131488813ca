"""Format result files as Markdown tables, one per arm, and those that compare our search in all settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .settings import HT, TREE

Result = dict[str, Any]
SOLUTIONS = {
    "test-ht-0.7": "samples, T = 0.7", "test-ht-0.5": "samples, T = 0.5", "test-ht-1": "samples, T = 1.0",
    "test-tree-1": "EDU tree, tau = 1.0", "test-tree-0.5": "EDU tree, tau = 0.5",
}  # fmt: skip


def shown(estimate: Result | None) -> str:
    """Format `0.512 (0.480 .. 0.545)`."""
    return (
        f"{estimate['mean']:.3f} ({estimate['ci_low']:.3f} .. {estimate['ci_high']:.3f})" if estimate else ""
    )


def signed(estimate: Result | None) -> str:
    """Format a difference; bold if its interval excludes 0."""
    if not estimate:
        return ""
    text = f"{estimate['mean']:+.3f} ({estimate['ci_low']:+.3f} .. {estimate['ci_high']:+.3f})"
    return f"**{text}**" if estimate["ci_low"] > 0 or estimate["ci_high"] < 0 else text


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def origin(result: Result) -> str:
    """Say what the numbers of a table are based on."""
    name, arm, seeds, scale = result["setting"]["name"], result["arm"], result["seeds"], result["scale"]
    sizes = {
        "tuning": f"{scale['num_valid']} valid problems, one seed that no other table has",
        "labels": "prefixes as listed, no PRM",
    }
    measured_on = sizes.get(
        arm, f"{scale['num_test']} test problems, {len(seeds)} seeds ({seeds[0]} to {seeds[-1]})"
    )
    return (
        f"Setting {name}, {measured_on}, commit {result['commit']}, {result['date']}: "
        f"`recipes/results/{name}-{arm}.json`"
    )


def find(rows: Sequence[Result], **wanted: Any) -> Result | None:
    """Return the first row with these fields."""
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def compared(result: Result) -> str:
    """Format one PRM per row."""
    rows, contrasts = result["rows"], result["contrasts"]
    sizes = sorted({row["n"] for row in rows if row["solutions"] == HT})
    top = max(row["n"] for row in rows if row["solutions"] == TREE)
    reference = next(item["right"] for item in contrasts if " best " in item["right"]).split()[0]
    differing = [f"{what}, minus {reference}" for what in (f"best of {top}", "vote", "tree")]
    header = [
        "PRM",
        *(f"best of {n}" for n in sizes),
        f"weighted vote of {top}",
        f"best of {top}, EDU tree",
        *differing,
    ]
    cells = []
    for label in result["labels"]:
        name = label["variant"]
        of_ht = [shown(find(rows, variant=name, solutions=HT, select="best", n=n)) for n in sizes]
        votes = shown(find(rows, variant=name, solutions=HT, select="weighted", n=top))
        tree = shown(find(rows, variant=name, solutions=TREE, select="best", n=top))
        differences = [
            signed(find(contrasts, left=f"{name} {kind} min {top}", right=f"{reference} {kind} min {top}"))
            for kind in (f"{HT} best", f"{HT} weighted", f"{TREE} best")
        ]
        cells.append([name, *of_ht, votes, tree, *differences])
    for select in ("majority", "oracle"):
        of_ht = [shown(find(rows, variant=None, solutions=HT, select=select, n=n)) for n in sizes]
        tree = shown(find(rows, variant=None, solutions=TREE, select=select, n=top))
        cells.append([f"({select})", *of_ht, "", tree, "", "", ""])
    full = max(label["tokens"] for label in result["labels"])
    costs = [
        [
            label["variant"],
            f"{label['num_problems']:,}",
            f"{label['tokens']:,.0f}",
            f"{label['tokens'] / full:.3f}",
            f"{label['learning_rate']:g}",
        ]
        for label in result["labels"]
    ]
    cost_table = markdown(
        ["PRM", "problems", "sampled tokens of its labels", "of the most", "learning rate"], costs
    )
    return f"{markdown(header, cells)}\n\n{cost_table}"


def sampling(result: Result) -> str:
    """Format solutions and N, one pair per row."""
    rows = []
    for solutions, name in SOLUTIONS.items():
        for n in sorted({row["n"] for row in result["rows"] if row["solutions"] == solutions}):
            at_n = [row for row in result["rows"] if row["solutions"] == solutions and row["n"] == n]
            picks = [find(at_n, select=select) for select in ("majority", "oracle", "best", "weighted")]
            rows.append(
                [
                    name,
                    str(n),
                    f"{at_n[0]['tokens']:.0f}",
                    f"{at_n[0]['tokens_without_reuse']:.0f}",
                    *(shown(pick) for pick in picks),
                ]
            )
    header = [
        "solutions",
        "N",
        "tokens",
        "without reuse",
        "majority",
        "oracle",
        "best by PRM",
        "vote weighted by PRM",
    ]
    differences = [
        [item["left"], item["right"], signed(item), f"{item['token_ratio']:.2f}"]
        for item in result["contrasts"]
        if " best " in item["right"]
    ]
    columns = ["left", "right", "left minus right", "tokens, left / right"]
    parts = [markdown(header, rows), "At equal N:", markdown(columns, differences)]
    for title, name in (
        ("At no more tokens:", "equal_tokens"),
        ("A vote of samples against the best of a tree:", "votes_against_trees"),
    ):
        contrast_rows = [
            [item["left"], item["right"], signed(item), f"{item['token_ratio']:.2f}"] for item in result[name]
        ]
        parts += [title, markdown(columns, contrast_rows)]
    return "\n\n".join(parts)


def cheating(result: Result) -> str:
    names = [name for name in result["prms"][0] if name not in ("variant", "num_seeds")]
    rows = [[row["variant"], *(shown(row[name]) for name in names)] for row in result["prms"]]
    share = result["share_of_right_answers"]
    head = (
        f"Of {result['num_right_answers']:,} right answers among the samples {result['num_cheats']:,} have a "
        "wrong step; mean share over "
        f"the {share['num_problems']} problems with a right answer: "
        f"{shown(share)}. Intervals of the table are over seeds."
    )
    return f"{head}\n\n{markdown(['PRM', *(name.replace('_', ' ') for name in names)], rows)}"


def labels(result: Result) -> str:
    rows = [
        [row["label"], f"{row['tokens_per_label']:.1f}", shown(row["error"]),
         f"{row['squared_error']['mean']:.4f}", signed(row["bias"]),
         f"{row['correlation']:.3f}", str(row["num_prefixes"])]
        for row in result["labels"]
    ]  # fmt: skip
    header = [
        "label",
        "tokens per label",
        "mean absolute error",
        "mean squared error",
        "bias",
        "rank correlation",
        "prefixes",
    ]
    return markdown(header, rows)


STEERED = ("best", "policy-weighted", "oracle")


def steering(result: Result) -> str:
    kinds = ("best", "weighted", "policy-weighted", "oracle")
    rows = []
    for row in result["modes"]:
        differences = [signed(find(result["differences"], left=row["mode"], select=kind)) for kind in STEERED]
        rows.append(
            [
                row["mode"],
                f"{row['policy_tokens']:.0f}",
                f"{row['prm_tokens']:.0f}",
                *(shown(row[kind]) for kind in kinds),
                *differences,
            ]
        )
    return markdown(
        ["trees", "policy tokens", "PRM tokens", *kinds, *(f"{kind}, minus plain" for kind in STEERED)], rows
    )


def raft(result: Result) -> str:
    rows = []
    for row in result["raft"]:
        differences = [
            signed(find(result["differences"], left=row["kept_by"], of=of)) for of in ("greedy", "sampled")
        ]
        measured = [
            shown(row["greedy"]),
            signed(row["greedy_gain"]),
            shown(row["sampled"]),
            signed(row["sampled_gain"]),
        ]
        rows.append([row["kept_by"], *measured, *differences])
    header = [
        "kept by",
        "greedy",
        "gain",
        "one sample, T = 1",
        "gain",
        "greedy, minus soft",
        "sample, minus soft",
    ]
    return markdown(header, rows)


OURS_HEADER = [
    "what", "tokens", "accuracy",
    *(f"minus the best for no more tokens of {paper}"
      for paper in ("EDU-PRM", "ER-PRM", "samples, EDU-PRM's scores")),
]  # fmt: skip


def ours_cells(result: Result, names: Sequence[str] | None = None) -> list[list[str]]:
    """Format one way per row, with its gain over the best of each paper for no more tokens."""
    cells = []
    for row in sorted(result["ways"], key=lambda row: float(row["tokens"])):
        if names is not None and row["name"] not in names:
            continue
        rivals = [
            find(result["differences"], left=row["name"], paper=paper)
            for paper in ("EDU-PRM", "ER-PRM", "samples")
        ]
        against = [f"{signed(item)} {item['right']}" if item else "" for item in rivals]
        cells.append([row["name"], f"{row['tokens']:.0f}", shown(row), *against])
    return cells


def ours(result: Result) -> str:
    """Format all ways of a setting."""
    return markdown(OURS_HEADER, ours_cells(result))


def aggregates(result: Result) -> str:
    """Format a PRM and an aggregate per row."""
    rows, contrasts = result["rows"], result["contrasts"]
    kinds = [("best", HT), ("weighted", HT), ("best", TREE), ("weighted", TREE)]
    cells = []
    for variant, how in dict.fromkeys((row["variant"], row["aggregate"]) for row in rows):
        line = [variant, how]
        for select, solutions in kinds:
            row = find(rows, variant=variant, aggregate=how, select=select, solutions=solutions)
            assert row is not None, "every aggregate has rows of all kinds"
            left, right = (f"{variant} {solutions} {select} {name} {row['n']}" for name in (how, "min"))
            difference = signed(find(contrasts, left=left, right=right))
            line.append(f"{shown(row)}; {difference}" if difference else shown(row))
        cells.append(line)
    top = rows[0]["n"]
    whats = (f"best of {top} samples", f"vote of {top} samples", "best of EDU tree", "vote of EDU tree")
    header = ["PRM", "aggregate", *(f"{what}; minus min" for what in whats)]
    return markdown(header, cells)


def tuning(result: Result) -> str:
    return markdown(
        ["PRM", "learning rate", "best of 16"],
        [[row["variant"], f"{row['learning_rate']:g}", shown(row)] for row in result["tuned"]],
    )


COMPARED = (
    "headline",
    "queries",
    "values",
    "segmentation",
    "baselines",
    "head",
    "combinations",
    "crossed",
    "rollouts",
    "eta",
    "own",
    "elsewhere",
)
TABLES: dict[str, Callable[[Result], str]] = dict.fromkeys(COMPARED, compared) | {
    "tuning": tuning,
    "sampling": sampling,
    "cheating": cheating,
    "labels": labels,
    "ours": ours,
    "aggregates": aggregates,
    "steering": steering,
    "raft": raft,
}


FRONT = (
    "best of tree of 4, tau = 1.0; edu",
    "best of 16 samples, T = 0.7; er-2",
    "vote of 16 samples, T = 0.7; er-2",
    "majority of 16 samples, T = 0.7",
    "vote of tree, then samples until 0.5 of the vote; edu",
    "policy-weighted vote of tree of 8, tau = 1.0; edu",
    "policy-weighted vote of tree of 8, tau = 1.0; er-2",
    "policy-weighted vote of tree of 8, tau = 1.0, then samples until 0.5 of the vote; edu",
    "vote of 64 samples, T = 0.7; er-2",
)
"""The rows of the table `front`, as far as a setting has them."""


PARTED = ("policy-weighted vote of tree of 8, tau = 1.0", "policy-weighted vote of tree of 16, tau = 0.5")
"""The first cells of the rows of the table of parts."""


def front(results: Sequence[Result]) -> str:
    """Format some rows of `ours` for every setting."""
    cells = [[result["setting"]["name"], *row] for result in results for row in ours_cells(result, FRONT)]
    return markdown(["setting", *OURS_HEADER], cells)


def parts(results: Sequence[Result]) -> str:
    """Format what each part of a policy-weighted vote adds, one setting per column."""
    pairs = dict.fromkeys((item["left"], item["right"]) for result in results for item in result["parts"])
    cells = [
        [left, right, *(signed(find(result["parts"], left=left, right=right)) for result in results)]
        for left, right in pairs
        if left.startswith(PARTED)
    ]
    return markdown(["what", "minus", *(result["setting"]["name"] for result in results)], cells)


def tables(results: dict[str, Result]) -> dict[str, str]:
    """Return every table by its name."""
    found = {name: f"{TABLES[result['arm']](result)}\n\n{origin(result)}" for name, result in results.items()}
    everywhere = [result for _, result in sorted(results.items()) if result["arm"] == "ours"]
    if everywhere:
        for name, make in (("front", front), ("parts", parts)):
            found[name] = "\n\n".join([make(everywhere), *map(origin, everywhere)])
    return found
