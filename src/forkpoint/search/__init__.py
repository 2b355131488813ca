"""Find an answer with a PRM at inference time.

The methods are best-of-N, votes, EDU trees, adaptive sampling, beam search and diverse verifier tree search.
Solutions come from a policy, scores from a PRM, and every token of both is counted. Importing this package
loads no engine.
"""

from __future__ import annotations

from forkpoint.search.config import METHODS, MethodName, SearchConfig
from forkpoint.search.guide import Guide
from forkpoint.search.run import MethodReport, run_search

__all__ = ["METHODS", "Guide", "MethodName", "MethodReport", "SearchConfig", "run_search"]
