"""The documents keep their promises: the example runs and prints what it says, every file that is named exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from forkpoint.labels.values import PRODUCTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    return README.split(f"## {title}")[1].split("\n## ")[0]


def test_the_python_example_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(
        line[4:] for line in section("Twelve lines of Python").splitlines() if line.startswith("    ")
    )
    exec(compile(code, "README.md", "exec"), {})
    answers, uniform, entropic = capsys.readouterr().out.splitlines()
    assert answers.startswith("['add 5', 'times 6', 'times 5']")
    assert "value=0.5, num_correct=1, num_total=2" in uniform
    assert "value=0.7168" in entropic


def test_every_file_in_the_readme_exists() -> None:
    names = re.findall(r"[\w*]+\.py", section("Files"))
    assert len(names) > 20
    for name in names:
        assert any(list((ROOT / folder).glob(f"**/{name}")) for folder in ("src/forkpoint", "recipes")), name


def test_every_link_to_a_file_leads_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} -> {target}"


def test_the_picture_of_labels_is_what_the_package_labels() -> None:
    path = ROOT / "recipes" / "labels_picture.py"
    spec = importlib.util.spec_from_file_location("labels_picture", path)
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    assert (ROOT / "docs" / "labels.svg").read_text() == recipe.draw(), (
        "draw it again: python recipes/labels_picture.py docs/labels.svg"
    )


def test_the_example_of_the_page_on_labels_runs_and_its_names_are_the_package_s() -> None:
    page = (ROOT / "docs" / "labels.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/labels.md", "exec"), {})
    rows = re.findall(r"^\| `([\w-]+)` \| (leaves|rollouts|bisect) \| (\w+)", page, re.MULTILINE)
    assert {name: (plan, value) for name, plan, value in rows} == {
        name: (product.plan, product.value) for name, product in PRODUCTS.items()
    }
