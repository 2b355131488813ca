"""Format numbers for the page.

Invariant: percentages and points have one decimal, a true minus sign and no-break spaces, so that no number
is split at the end of a line.
"""

from __future__ import annotations

NBSP = "\u00a0"
MINUS = "\u2212"


def percent(fraction: float) -> str:
    """Format `0.72` as `72.0 %`."""
    return f"{100 * fraction:.1f}{NBSP}%"


def interval(low: float | None, high: float | None) -> str:
    """Format a 95 % interval of fractions in percent: `[66.1, 77.2]`; empty if there is none."""
    if low is None or high is None:
        return ""
    return f"[{100 * low:.1f},{NBSP}{100 * high:.1f}]"


def points(difference: float) -> str:
    """Format a difference of fractions as signed percentage points: `+17.0`."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def points_interval(low: float, high: float) -> str:
    """Format the interval of a difference in signed points: `[+10.0, +24.0]`."""
    return f"[{points(low)},{NBSP}{points(high)}]"


def count(number: float | None) -> str:
    """Format a whole number with separated thousands: `12,345`; a dash for None."""
    return "\u2013" if number is None else f"{number:,.0f}"


def decimal(number: float | None) -> str:
    """Format a number with three decimals; a dash for None."""
    return "\u2013" if number is None else f"{number:.3f}".replace("-", MINUS)


def parameters(number: int) -> str:
    """Format a parameter count with three digits: `861 k`, `7.62 B`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            digits = f"{number / size:.0f}" if number >= 100 * size else f"{number / size:.3g}"
            return f"{digits}{NBSP}{unit}"
    return str(number)


def duration(seconds: float) -> str:
    """Format `75` as `1 min 15 s`."""
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NBSP}h {minutes}{NBSP}min"
