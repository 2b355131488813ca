"""Public benchmarks of process reward models: ProcessBench, PRMBench, best-of-N, step calibration.

A benchmark takes any `Scorer`. Invariant: a solution is scored once and its scores are journaled under a hash
of its content, so a killed benchmark continues, and another threshold or another benchmark of the same
solutions scores nothing again. Every figure has a 95 % percentile bootstrap interval over problems, not over
solutions or steps.
A solution that the scorer refuses (`LayoutError`) is never cut to fit: each benchmark says what such a
solution counts as, and how many there are.
Nothing here samples solutions or trains. Importing this package loads neither torch, datasets nor pyarrow.
"""

from __future__ import annotations

from forkpoint.prm_benchmarks.best_of_n import BestOfNConfig, best_of_n
from forkpoint.prm_benchmarks.calibration import CalibrationConfig, calibration
from forkpoint.prm_benchmarks.candidates import CandidateColumns, CandidateFile, Candidates, read_candidates
from forkpoint.prm_benchmarks.prmbench import PRMBenchConfig, prmbench, read_processes
from forkpoint.prm_benchmarks.processbench import ProcessBenchConfig, processbench, read_subsets

__all__ = [
    "BestOfNConfig",
    "CalibrationConfig",
    "CandidateColumns",
    "CandidateFile",
    "Candidates",
    "PRMBenchConfig",
    "ProcessBenchConfig",
    "best_of_n",
    "calibration",
    "prmbench",
    "processbench",
    "read_candidates",
    "read_processes",
    "read_subsets",
]
