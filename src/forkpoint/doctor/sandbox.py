"""Examine the sandbox of the grader `code`: which protection is in force for programs on this system.

Invariant: the levels are tried as for grading, each with a harmless program, not told from the system's name.
"""

from __future__ import annotations

from forkpoint.doctor.finding import Finding, problem, warning
from forkpoint.grading.sandbox.choose import PROTECTION, level_in_force, why_not
from forkpoint.grading.sandbox.launch import LEVELS, Level

CONFINED: tuple[Level, ...] = ("namespaces", "bubblewrap", "landlock")
"""Levels at which the kernel, not the interpreter alone, prevents changes of files outside."""


def examine_sandbox() -> list[Finding]:
    """Name the level in force, and say why stronger ones are not."""
    try:
        level = level_in_force()
    except ValueError as error:
        return [problem("protection", str(error))]
    stronger = LEVELS[: LEVELS.index(level)]
    missing = [
        f"{other}: {why_not(other) or 'it holds, but FORKPOINT_SANDBOX demands another level'}"
        for other in stronger
    ]
    text = f"programs run at the level {level}: {PROTECTION[level]}"
    if level in CONFINED:
        return [Finding("protection", "ok", text, tuple(missing))]
    advice = "install bubblewrap, allow user namespaces, or grade in a container"
    return [warning("protection", f"{text}; {advice}", missing)]
