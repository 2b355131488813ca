"""Lay out the step trees of `trees.json` for display.

Invariant: every sampled token appears once. A branch is cut wherever another branch leaves it, so that a
shared prefix is one node. The nodes of a tree are a flat list with parent indices, parents first. A fragment
is shown at its last token, once, however many branches list it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forkpoint.report.fields import Fields, read_json


@dataclass(frozen=True, slots=True)
class ShownBranch:
    """A branch with its token texts; every tuple has one entry for each of its own tokens."""

    parent_idx: int | None
    fork: int
    tokens: tuple[str, ...]
    entropies: tuple[float, ...]
    logprobs: tuple[float, ...]
    runner_ups: tuple[str, ...]
    is_anchor: tuple[bool, ...]
    answer: str | None
    is_correct: bool
    finish: str

    @property
    def end(self) -> int:
        """The length of the branch's path."""
        return self.fork + len(self.tokens)


@dataclass(slots=True)
class ShownNode:
    """A sequence of tokens without a fork; it ends in two or more children, or in a leaf."""

    parent: int | None
    branch_idx: int
    start: int
    """Position of the first token in the branch's path."""
    end: int
    is_forced: bool
    """Whether the first token is a runner-up forced at a fork, rather than the policy's first choice."""
    is_leaf: bool
    num_correct: int = 0
    num_leaves: int = 0
    """Number of leaves at or below the node."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Labels that end inside the node; `after` is the number of its tokens up to that end."""


def read_trees(path: Path) -> list[dict[str, Any]] | None:
    """Return the trees of `trees.json` as JSON for the page; None if there is no such file."""
    if not path.is_file():
        return None
    trees = read_json(path)
    if not isinstance(trees, list):
        raise ValueError(f"{path.name} must be a list of trees")
    return [_shown(Fields.of(tree, f"{path.name}[{idx}]")) for idx, tree in enumerate(trees)]


def nodes_of(branches: list[ShownBranch]) -> list[ShownNode]:
    """Return the nodes: parents before children, and a continued branch before those that leave it."""
    forks: dict[tuple[int, int], list[int]] = {}
    for idx, branch in enumerate(branches):
        if branch.parent_idx is not None:
            forks.setdefault((_owner(branches, branch.parent_idx, branch.fork - 1), branch.fork), []).append(
                idx
            )
    nodes: list[ShownNode] = []
    owed: list[tuple[int | None, int, int, bool]] = [(None, 0, 0, False)]
    while owed:
        parent, idx, start, is_past_fork = owed.pop()
        later = [
            fork
            for host, fork in forks
            if host == idx and (fork > start or (fork == start and not is_past_fork))
        ]
        end = min(later, default=branches[idx].end)
        is_forced = idx > 0 and start == branches[idx].fork
        nodes.append(ShownNode(parent, idx, start, end, is_forced, is_leaf=not later))
        if later:
            here = len(nodes) - 1
            owed += [(here, child, end, True) for child in reversed(forks[idx, end])] + [
                (here, idx, end, True)
            ]
    for node in reversed(nodes):
        if node.is_leaf:
            node.num_leaves, node.num_correct = 1, int(branches[node.branch_idx].is_correct)
        if node.parent is not None:
            nodes[node.parent].num_leaves += node.num_leaves
            nodes[node.parent].num_correct += node.num_correct
    return nodes


def _owner(branches: list[ShownBranch], idx: int, position: int) -> int:
    """Return the branch that sampled the token at `position` of the path of branch `idx`.

    A position before all tokens belongs to the root.
    """
    branch = branches[idx]
    while branch.parent_idx is not None and position < branch.fork:
        idx, branch = branch.parent_idx, branches[branch.parent_idx]
    return idx


def _shown(fields: Fields) -> dict[str, Any]:
    branches = _branches(fields)
    nodes = nodes_of(branches)
    _attach_steps(fields, branches, nodes)
    depths: list[int] = []
    for node in nodes:
        depths.append(0 if node.parent is None else depths[node.parent] + 1)
    return {
        "problem_id": fields.text("problem_id"),
        "question": fields.text("question"),
        "reference": fields.text("reference"),
        "prompt": fields.maybe_text("prompt_text"),
        "tau": fields.number("tau"),
        "num_leaves": len(branches),
        "num_correct": sum(branch.is_correct for branch in branches),
        "num_tokens": sum(len(branch.tokens) for branch in branches),
        "num_path_tokens": sum(branch.end for branch in branches),
        "max_entropy": max((entropy for branch in branches for entropy in branch.entropies), default=0.0),
        "depth": max(depths),
        "nodes": [_node_json(node, branches[node.branch_idx]) for node in nodes],
    }


def _node_json(node: ShownNode, branch: ShownBranch) -> dict[str, Any]:
    own = slice(node.start - branch.fork, node.end - branch.fork)
    shown = asdict(node)
    shown["tokens"] = [
        list(token)
        for token in zip(
            branch.tokens[own],
            (round(entropy, 4) for entropy in branch.entropies[own]),
            (round(logprob, 4) for logprob in branch.logprobs[own]),
            branch.runner_ups[own],
            branch.is_anchor[own],
            strict=True,
        )
    ]
    if node.is_leaf:
        shown["leaf"] = {"answer": branch.answer, "is_correct": branch.is_correct, "finish": branch.finish}
    return shown


def _branches(tree: Fields) -> list[ShownBranch]:
    branches: list[ShownBranch] = []
    for fields in tree.objects("branches"):
        branch = _branch(fields)
        if (branch.parent_idx is None) != (not branches):
            raise ValueError(f"{fields.where}.parent_idx must be null for the first branch and for no other")
        if branch.parent_idx is not None and branch.parent_idx >= len(branches):
            raise ValueError(
                f"{fields.where}.parent_idx must be the index of an earlier branch; "
                f"{branch.parent_idx} was given"
            )
        longest = 0 if branch.parent_idx is None else branches[branch.parent_idx].end
        if branch.fork > longest:
            raise ValueError(
                f"{fields.where}.fork must be a position in the parent's path, at most {longest}; "
                f"{branch.fork} was given"
            )
        branches.append(branch)
    if not branches:
        raise ValueError(f"{tree.where}.branches is empty; a tree has at least its root branch")
    return branches


def _branch(fields: Fields) -> ShownBranch:
    branch = ShownBranch(
        parent_idx=fields.maybe_count("parent_idx"),
        fork=fields.count("fork"),
        tokens=fields.texts("tokens"),
        entropies=fields.numbers("entropies"),
        logprobs=fields.numbers("logprobs"),
        runner_ups=fields.texts("runner_ups"),
        is_anchor=fields.flags("is_anchor"),
        answer=fields.maybe_text("answer"),
        is_correct=fields.flag("is_correct"),
        finish=fields.text("finish"),
    )
    for key in ("entropies", "logprobs", "runner_ups", "is_anchor"):
        if len(getattr(branch, key)) != len(branch.tokens):
            raise ValueError(
                f"{fields.where}.{key} must have one entry for each of the {len(branch.tokens)} tokens"
            )
    return branch


def _attach_steps(tree: Fields, branches: list[ShownBranch], nodes: list[ShownNode]) -> None:
    """Put the label of every fragment on the node that holds the last token of the fragment."""
    for fields in tree.objects("fragments"):
        idx, start, end = fields.count("branch_idx"), fields.count("start"), fields.count("end")
        if idx >= len(branches) or not start < end <= branches[idx].end:
            raise ValueError(
                f"{fields.where} must cover tokens of a path; "
                f"branch_idx {idx}, start {start}, end {end} do not"
            )
        owner = _owner(branches, idx, end - 1)
        node = next(node for node in nodes if node.branch_idx == owner and node.start < end <= node.end)
        step = {
            "after": end - node.start,
            "num_tokens": end - start,
            "label": _label(fields),
            "score": fields.maybe_number("score"),
        }
        if step not in node.steps:
            node.steps.append(step)
    for node in nodes:
        node.steps.sort(key=lambda step: (step["after"], -step["num_tokens"]))


def _label(fields: Fields) -> dict[str, float] | None:
    label = fields.maybe_inner("label")
    if label is None:
        return None
    return {key: label.number(key) for key in ("value", "num_correct", "num_total", "low", "high")}
