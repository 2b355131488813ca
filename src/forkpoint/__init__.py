"""forkpoint: process reward models without annotators.

Importing the package loads neither torch nor any optional package; each public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forkpoint.labels import Leaves as Leaves
    from forkpoint.policies import ScriptedPolicy as ScriptedPolicy
    from forkpoint.policies import load_policy as load_policy
    from forkpoint.prms import load_prm as load_prm
    from forkpoint.problems import load_problems as load_problems
    from forkpoint.tree import TreeConfig as TreeConfig
    from forkpoint.tree import grow_trees as grow_trees
    from forkpoint.values import hit as hit
    from forkpoint.values import log_mean_exp as log_mean_exp
    from forkpoint.values import mean as mean

__version__ = "0.1.0"

_HOMES = {
    "Leaves": "labels",
    "ScriptedPolicy": "policies",
    "TreeConfig": "tree",
    "grow_trees": "tree",
    "hit": "values",
    "load_policy": "policies",
    "load_prm": "prms",
    "load_problems": "problems",
    "log_mean_exp": "values",
    "mean": "values",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forkpoint' has no attribute {name!r}")
    return getattr(import_module(f"forkpoint.{_HOMES[name]}"), name)
