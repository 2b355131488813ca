"""`forkpoint doctor`: problems of a PRM, a data file, a policy or the sandbox, before it is used."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from forkpoint.checkpoint import Device
from forkpoint.cli.app import app
from forkpoint.cli.console import out_console, quiet_libraries
from forkpoint.doctor.data import examine_data
from forkpoint.doctor.finding import Finding, Severity
from forkpoint.doctor.kind import kind_of
from forkpoint.doctor.samples import Sample
from forkpoint.policies.prompt import prompt_of
from forkpoint.prms.score_file import read_solutions
from forkpoint.problems import load_problems
from forkpoint.steps import newline_steps

SHOWN_DETAILS = 5
STYLES: dict[Severity, str] = {"problem": "red", "warning": "yellow", "ok": "green"}
FAMILY_OPTIONS = ("separator", "reference", "beta")


@app.command
def doctor(
    target: str,
    *,
    kind: Literal["auto", "prm", "data", "policy", "sandbox"] = "auto",
    family: str | None = None,
    format_: Annotated[str | None, Parameter(name="--format")] = None,
    read: tuple[str, ...] = (),
    solutions: Path | None = None,
    prm: str | None = None,
    against: tuple[str, ...] = (),
    problems: str | None = None,
    template: str | None = None,
    instruction: str | None = None,
    system: str | None = None,
    thinking: bool | None = None,
    max_tokens: int = 512,
    tau: float = 1.0,
    device: Device = "auto",
    json_: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Examine a PRM, a data file, a policy or the sandbox; exits with status 1 if there is a problem.

    See docs/how-to/doctor.md.

    Parameters
    ----------
    target
        A model directory or hub id, a file of step labels (.jsonl, .json, .parquet), a label run, or
        hub:OWNER/NAME?split=train. The word sandbox examines what protects the grader code from programs.
    kind
        The kind of the target; auto decides by its files. A language model is a policy unless its files say
        otherwise.
    family
        The family of a PRM, if its files do not say it (docs/reference/prms).
    format_
        The format of a data file, if its columns do not show it (docs/reference/formats.md).
    read
        Options, KEY=VALUE each: those of the data format, or of the PRM's family (separator, reference,
        beta).
    solutions
        For a PRM: solutions to score, as for `forkpoint score`.
    prm
        For data: the PRM that will read it.
    against
        For data: a file of test questions that must not be in it; the test sets in FORKPOINT_DATA are checked
        too.
    problems
        For a policy: problems to complete and to count anchors on, as for `forkpoint label`.
    template
        For a policy: the prompt with {question} in it.
    instruction
        For a policy: the text that follows the question in the user's message of the chat template, or the
        name of one: math-boxed or gsm8k-hash.
    system
        For a policy: the system message of the chat template, or the name of one: qwen-math or math-boxed.
    thinking
        For a policy: the value of the switch `enable_thinking` of the chat template.
    max_tokens
        For a policy: maximum number of tokens of a completion.
    tau
        For a policy: the entropy in nats above which a token is an anchor.
    json_
        Print all findings as JSON.
    """
    quiet_libraries()
    found_kind = kind_of(target) if kind == "auto" else kind
    if found_kind == "prm":
        from forkpoint.doctor.prm import examine_prm

        findings = examine_prm(
            target, device, family, _family_options(read), _samples(solutions) if solutions else ()
        )
    elif found_kind == "data":
        known_data = os.environ.get("FORKPOINT_DATA")
        findings = examine_data(
            target,
            format_,
            read,
            prm=prm,
            family=family,
            against=against,
            known_data=Path(known_data) if known_data else None,
        )
    elif found_kind == "sandbox":
        from forkpoint.doctor.sandbox import examine_sandbox

        findings = examine_sandbox()
    else:
        from forkpoint.doctor.policy import examine_policy

        known = load_problems(problems) if problems else []
        questions = [problem.question for problem in known]
        prompt = prompt_of(template, instruction, system, thinking)
        findings = examine_policy(target, device, prompt, max_tokens, tau, questions)
        if any(problem.grader == "code" for problem in known):
            from forkpoint.doctor.sandbox import examine_sandbox

            findings += examine_sandbox()
    num_problems = sum(finding.verdict == "problem" for finding in findings)
    if json_:
        report = {
            "target": target,
            "kind": found_kind,
            "num_problems": num_problems,
            "findings": [asdict(finding) for finding in findings],
        }
        print(json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False))
    else:
        _show(f"{found_kind}: {target}", findings)
    return 1 if num_problems else 0


def _family_options(assignments: Sequence[str]) -> dict[str, str | float]:
    options: dict[str, str | float] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or key not in FAMILY_OPTIONS:
            raise ValueError(
                f"options of a PRM are KEY=VALUE with the keys {', '.join(FAMILY_OPTIONS)}; "
                f"{assignment!r} was given"
            )
        options[key] = float(value) if key == "beta" else value.replace("\\n", "\n")
    return options


def _samples(path: Path) -> list[Sample]:
    return [
        Sample(
            f"{path}, solution {number}",
            row["question"],
            tuple(row["steps"] if "steps" in row else newline_steps(row["solution"])),
        )
        for number, row in enumerate(read_solutions(path), start=1)
    ]


def _show(title: str, findings: Sequence[Finding]) -> None:
    table = Table("", "check", "found", title=Text(title))
    for finding in findings:
        table.add_row(Text(finding.verdict, STYLES[finding.verdict]), finding.check, Text(finding.text))
    out_console.print(table)
    for finding in findings:
        for detail in finding.details[:SHOWN_DETAILS]:
            out_console.print(f"{finding.check}: {detail}", highlight=False, markup=False, soft_wrap=True)
        if len(finding.details) > SHOWN_DETAILS:
            out_console.print(
                f"{finding.check}: {len(finding.details) - SHOWN_DETAILS} more; --json shows them all",
                highlight=False,
            )
    counts = Counter(finding.verdict for finding in findings)
    out_console.print(", ".join(f"{counts[verdict]} {verdict}" for verdict in STYLES), highlight=False)
