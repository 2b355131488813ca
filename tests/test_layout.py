"""The layout of the package: imports point down, floor by floor, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "forkpoint"
FLOORS = (
    (
        "version",
        "errors",
        "checks",
        "records",
        "content_key",
        "select",
        "estimates",
        "checkpoint",
        "row_files",
        "report",
    ),
    ("steps", "grading", "runs", "formats", "http_client"),
    ("lab", "policies", "prms"),
    ("problems", "trees", "training", "rewards", "serve", "doctor"),
    ("solutions",),
    ("labels",),
    ("evaluation", "search", "hub"),
    ("prm_benchmarks", "experiments"),
    ("planner",),
    ("cli",),
    ("__main__",),
)
"""Rooms (the files and folders at the top of the package) from the ground up; imports go down.

`report` stands on the ground because it reads nothing but JSON files. `__init__` is left out: it loads every
public name when the name is first used.
"""

Modules = dict[str, set[str]]
"""The modules of the package, each with those that it imports; names without the leading `forkpoint.`."""


def imports_of(source: Path) -> Modules:
    """Read the imports of every file below `source`, including those in functions and for type checkers."""
    files = {
        ".".join(path.relative_to(source).with_suffix("").parts): path
        for path in sorted(source.rglob("*.py"))
    }
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    return {name: set(_imported(path, modules)) - {name} for name, path in modules.items()}


def _imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inner = name.partition(".")
            if package == "forkpoint":
                yield next(known for known in _prefixes(inner) if known in modules)


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    yield "__init__"


def circles(modules: Modules) -> list[str]:
    """Return the circles of imports, each as the path that leads back to its start."""
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for imported in sorted(modules[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in modules:
        visit(name, ())
    return found


def climbs(modules: Modules, floors: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return the imports of a room on the same or a higher floor, and the rooms that are on no floor."""
    floor_of = {room: height for height, rooms in enumerate(floors) for room in rooms}
    found = []
    for name, imported_names in modules.items():
        room = name.split(".")[0]
        if room == "__init__":
            continue
        if room not in floor_of:
            found.append(f"{room} is on no floor")
            continue
        for imported in sorted(imported_names):
            below = imported.split(".")[0]
            if below != room and floor_of.get(below, len(floors)) >= floor_of[room]:
                found.append(f"{name} -> {imported}")
    return found


def test_imports_never_go_in_a_circle() -> None:
    modules = imports_of(SOURCE)
    assert len(modules) > 100
    assert circles(modules) == []


def test_imports_point_to_lower_floors() -> None:
    assert climbs(imports_of(SOURCE), FLOORS) == []


def test_every_floor_is_inhabited() -> None:
    rooms = {name.split(".")[0] for name in imports_of(SOURCE)}
    assert {room for floor in FLOORS for room in floor} == rooms - {"__init__"}


@pytest.mark.parametrize(
    "statement",
    [
        "from forkpoint.upper import thing",
        "from forkpoint import upper",
        "import forkpoint.upper",
        "def load():\n    from forkpoint.upper import thing",
    ],
)
def test_an_import_that_climbs_is_found_however_it_is_written(tmp_path: Path, statement: str) -> None:
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper" / "__init__.py").write_text("from forkpoint.lower import other\n")
    (tmp_path / "lower.py").write_text(f"{statement}\n")
    modules = imports_of(tmp_path)
    assert climbs(modules, (("lower",), ("upper",))) == ["lower -> upper"]
    assert circles(modules) == ["lower -> upper -> lower"]


def test_a_room_on_no_floor_is_found(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("")
    assert climbs(imports_of(tmp_path), (("old",),)) == ["new is on no floor"]
