"""forkpoint: process reward models without annotators.

Importing the package loads neither torch nor any optional package; each public name is loaded when it is
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forkpoint.version import __version__ as __version__

if TYPE_CHECKING:
    from forkpoint.labels.leaves import Leaves as Leaves
    from forkpoint.labels.values import hit as hit
    from forkpoint.labels.values import log_mean_exp as log_mean_exp
    from forkpoint.labels.values import mean as mean
    from forkpoint.policies import ScriptedPolicy as ScriptedPolicy
    from forkpoint.policies import load_policy as load_policy
    from forkpoint.prms import load_prm as load_prm
    from forkpoint.problems import load_problems as load_problems
    from forkpoint.trees.grow import TreeConfig as TreeConfig
    from forkpoint.trees.grow import grow_trees as grow_trees

_HOMES = {
    "Leaves": "labels.leaves",
    "ScriptedPolicy": "policies",
    "TreeConfig": "trees.grow",
    "grow_trees": "trees.grow",
    "hit": "labels.values",
    "load_policy": "policies",
    "load_prm": "prms",
    "load_problems": "problems",
    "log_mean_exp": "labels.values",
    "mean": "labels.values",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forkpoint' has no attribute {name!r}")
    return getattr(import_module(f"forkpoint.{_HOMES[name]}"), name)
