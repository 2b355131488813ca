"""Draw docs/explanations/labels.svg: one tree with five values, labelled by the code of the package.

    python recipes/labels_picture.py docs/explanations/labels.svg

Every circle is a step of the solution of some leaf, and its number is the label of the step. The lines of the
tree are the steps that leaves share. The tree is grown by the package from a scripted policy, so the picture
can be drawn anywhere within a second.
"""

from __future__ import annotations

import sys
from pathlib import Path

from forkpoint.labels.leaves import Leaves, Weighting
from forkpoint.labels.values import Value, hit, log_mean_exp, mean
from forkpoint.policies import ScriptedPolicy
from forkpoint.records import Problem
from forkpoint.solutions.solve import solve_by_tree
from forkpoint.steps import newline_steps
from forkpoint.trees.grow import TreeConfig

SCRIPT = {
    "": {"a\n": 0.7, "b\n": 0.3},
    "a\n": {"c\n": 0.6, "d\n": 0.4},
    "a\nc\n": {"The answer is 7": 0.8, "The answer is 8": 0.2},
    "a\nd\n": {"The answer is 7": 1.0},
    "b\n": {"e\n": 0.55, "f\n": 0.45},
    "b\ne\n": {"The answer is 9": 0.65, "The answer is 7": 0.35},
    "b\nf\n": {"The answer is 9": 1.0},
}
PANELS: list[tuple[str, str, Value, Weighting]] = [
    ("mean", "EDU-PRM; Math-Shepherd soft", mean, "uniform"),
    ("mean, leaves weighted", "by branch probabilities", mean, "policy"),
    ("hit", "Math-Shepherd hard", hit, "uniform"),
    ("er, eta = 2", "ER-PRM: a soft maximum", log_mean_exp(2.0), "uniform"),
    ("er, eta = -2", "a soft minimum", log_mean_exp(-2.0), "uniform"),
]
WIDTH, HEIGHT, TOP, ROW, RADIUS = 250, 310, 74, 76, 17


def draw() -> str:
    """Return the picture as SVG."""
    (outcome,) = solve_by_tree(
        ScriptedPolicy(SCRIPT), [Problem("p", "question", "7")], TreeConfig(tau=0.1, num_leaves=16)
    )
    steps = [newline_steps(outcome.path(leaf_idx).text) for leaf_idx in range(outcome.tree.num_leaves)]
    order = sorted(range(len(steps)), key=lambda leaf_idx: steps[leaf_idx])
    column = {leaf_idx: place for place, leaf_idx in enumerate(order)}
    width, height = 3 * WIDTH, 2 * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for panel_idx, (title, subtitle, value, weighting) in enumerate(PANELS):
        left, top = panel_idx % 3 * WIDTH, panel_idx // 3 * HEIGHT
        parts.append(f'<g transform="translate({left} {top})">')
        parts.append(f'<text x="{WIDTH / 2:g}" y="26" font-size="15" font-weight="bold">{title}</text>')
        parts.append(f'<text x="{WIDTH / 2:g}" y="44" fill="#555">{subtitle}</text>')
        leaves = Leaves(outcome.tree, [end.is_correct for end in outcome.ends], weighting)
        nodes: dict[str, tuple[float, list[int], int]] = {}
        for leaf_idx in range(len(steps)):
            ends = outcome.path(leaf_idx).steps("newline", TreeConfig().rule)[1]
            for depth, num_tokens in enumerate(ends):
                prefix = "".join(steps[leaf_idx][: depth + 1])
                label = leaves.label(leaf_idx, num_tokens, value).value
                nodes.setdefault(prefix, (label, [], depth))[1].append(column[leaf_idx])
        spread = (WIDTH - 50) / (len(steps) - 1)
        places = {
            prefix: (25 + spread * sum(columns) / len(columns), TOP + 24 + ROW * depth)
            for prefix, (_, columns, depth) in nodes.items()
        }
        for prefix, (x, y) in places.items():
            head = "".join(newline_steps(prefix)[:-1])
            start = places.get(head, (WIDTH / 2, TOP - 14))
            parts.append(
                f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{x:.1f}" y2="{y:.1f}" stroke="#bbb"/>'
            )
        for prefix, (x, y) in places.items():
            label = nodes[prefix][0]
            shade = f"rgb({round(255 - 150 * label)} {round(255 - 60 * label)} {round(255 - 130 * label)})"
            shown = f"{label:.2f}".lstrip("0") if 0 < label < 1 else f"{label:.0f}"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" fill="{shade}" stroke="#333"/>')
            parts.append(f'<text x="{x:.1f}" y="{y + 4:.1f}">{shown}</text>')
        for leaf_idx, end in enumerate(outcome.ends):
            x, y = places["".join(steps[leaf_idx])]
            mark, colour = ("right", "#176b2c") if end.is_correct else ("wrong", "#a33")
            parts.append(f'<text x="{x:.1f}" y="{y + 36:.1f}" font-size="10" fill="{colour}">{mark}</text>')
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python recipes/labels_picture.py FILE.svg")
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
