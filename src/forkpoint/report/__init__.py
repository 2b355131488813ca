"""A run directory as one self-contained HTML page: headline, curves, table, step trees, cost.

Invariant: the page loads nothing from the network or the disk, and it shows whatever a model wrote as plain
text. It evaluates nothing itself: every number comes from `results.json` or is a sum, share or difference of
such numbers.
"""

from __future__ import annotations

from forkpoint.report.page import write_report

__all__ = ["write_report"]
