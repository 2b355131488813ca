"""The documents keep their promises: examples print what they say, commands parse, links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from forkpoint.cli import app
from forkpoint.labels.values import PRODUCTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
COMMANDS = DOCS / "reference" / "commands.md"
PAGES = sorted(DOCS.rglob("*.md"))
OTHERS = ("CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "benchmarks/README.md")
PROSE = [README, *(ROOT / name for name in OTHERS), *PAGES]
LABELS = DOCS / "explanations" / "labels.md"


def recipe(name: str) -> ModuleType:
    """A program of recipes/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# form


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def long_lines(text: str) -> list[int]:
    """Lines over 110 characters, from 1. Tables, links and text that recipes write may be long."""
    marked = re.compile(r"<!-- (evidence \S+|benchmarks) -->.*?<!-- \1 -->", re.DOTALL)
    lines = enumerate(marked.sub(lambda found: "\n" * found[0].count("\n"), text).splitlines(), 1)
    return [
        number for number, line in lines if len(line) > 110 and not line.startswith("|") and "](" not in line
    ]


@pytest.mark.parametrize("path", [path for path in PROSE if path != COMMANDS], ids=relative)
def test_no_line_is_long(path: Path) -> None:
    assert long_lines(path.read_text()) == []


def test_a_long_line_is_found() -> None:
    assert long_lines(f"short\n{'x' * 111}\n| {'x' * 111} |\n[a]({'x' * 111})\n{'x' * 110}\n") == [2]


# links


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown and GitHub name them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        found.add(re.sub(r"[\s]+", "-", slug))
    return found


def dead_links(path: Path) -> list[str]:
    """Links to files or headings that are not there."""
    dead = []
    text = path.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text):
        file, _, anchor = target.partition("#")
        aim = path.parent / file if file else path
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            dead.append(target)
    return dead


@pytest.mark.parametrize("path", PROSE, ids=relative)
def test_every_link_to_a_file_or_a_heading_leads_somewhere(path: Path) -> None:
    assert dead_links(path) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    links = "[a](page.md) [b](#a-title-with-signs) [c](gone.md) [d](page.md#gone) [e](https://x.y)"
    page.write_text(f'# A title: with signs\n\n{links}\n<img src="x.png">\n')
    assert dead_links(page) == ["gone.md", "page.md#gone", "x.png"]


def test_every_page_is_in_the_navigation_once() -> None:
    configuration = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"^ +- (?:.+: )?(\S+\.md)$", configuration.split("\nnav:\n")[1], re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in PAGES)
    assert "\nstrict: true\n" in configuration


# commands, modules and files that are named


def commands_of(path: Path) -> list[list[str]]:
    """The commands in the blocks of a page, without those that have placeholders (`...`)."""
    text = path.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(
        r"^    (.*)$", text, re.MULTILINE
    )
    found = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("forkpoint ")]
    return [command for command in found if "..." not in command]


def test_every_command_of_the_documents_parses() -> None:
    num_commands = 0
    for path in PROSE:
        if path.name in ("LOG.md", "commands.md"):
            continue
        for command in commands_of(path):
            app.parse_args(command, exit_on_error=False, print_error=False)
            num_commands += 1
    assert num_commands > 50


def test_a_flag_that_is_not_there_does_not_parse(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("    forkpoint label lab:train --out runs/labels --no-such-flag 3\n")
    (command,) = commands_of(page)
    with pytest.raises(Exception, match="no-such-flag"):
        app.parse_args(command, exit_on_error=False, print_error=False)


def test_the_page_of_commands_is_what_the_command_line_declares() -> None:
    assert COMMANDS.read_text() == recipe("commands_page").page(), "python recipes/commands_page.py --write"


def exists(name: str) -> bool:
    """Whether a dotted name is a module of the package or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_module_that_is_named_exists() -> None:
    named = {
        name
        for path in PROSE
        if path.name not in ("LOG.md", "commands.md")
        for name in re.findall(r"`(forkpoint\.[\w.]+)`", path.read_text())
    }
    assert len(named) > 10 and not exists("forkpoint.utils") and not exists("forkpoint.select.no_such_name")
    assert [name for name in sorted(named) if not exists(name)] == []


def test_every_import_of_the_documents_works() -> None:
    lines = {
        line.strip()
        for path in PROSE
        for line in re.findall(r"^(?:    )?(from forkpoint[\w.]* import .+)$", path.read_text(), re.MULTILINE)
    }
    assert len(lines) > 10
    for line in sorted(lines):
        if "policies.vllm" not in line and "runs.ray" not in line:
            exec(line, {})


def test_every_file_of_the_repository_that_is_named_exists() -> None:
    folders = "recipes|benchmarks|src|tests|tests_vllm|docs"
    for path in PROSE:
        if path.name in ("LOG.md", "commands.md"):
            continue
        for name in re.findall(rf"`((?:{folders})/[\w./*-]*)`", path.read_text()):
            assert list(ROOT.glob(name)), f"{relative(path)} names {name}"


# examples


def test_the_python_example_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    section = LABELS.read_text().split("## A label in twelve lines of Python")[1].split("\n## ")[0]
    code = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    exec(compile("\n".join(code), LABELS.name, "exec"), {})
    answers, uniform, entropic = capsys.readouterr().out.splitlines()
    assert answers.startswith("['add 5', 'times 6', 'times 5']")
    assert "value=0.5, num_correct=1, num_total=2" in uniform
    assert "value=0.7168" in entropic


def test_the_picture_of_labels_is_what_the_package_labels() -> None:
    drawn = recipe("labels_picture").draw()
    assert LABELS.with_suffix(".svg").read_text() == drawn, (
        "python recipes/labels_picture.py docs/explanations/labels.svg"
    )


def test_the_example_of_the_page_on_labels_runs_and_its_names_are_the_package_s() -> None:
    page = LABELS.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, LABELS.name, "exec"), {})
    rows = re.findall(r"^\| `([\w-]+)` \| (leaves|rollouts|bisect) \| (\w+)", page, re.MULTILINE)
    assert {name: (plan, value) for name, plan, value in rows} == {
        name: (product.plan, product.value) for name, product in PRODUCTS.items()
    }
