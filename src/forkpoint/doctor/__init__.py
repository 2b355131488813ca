"""Examine a PRM, a data file, a policy or the sandbox before it is used, and say what is wrong with it.

`prm`, `data`, `policy` and `sandbox` hold one examination each: a list of named checks, each of which
ends in a `Finding`.
Invariant: nothing is changed or repaired, and a check that was not made is not reported as ok. Importing this
file loads neither torch nor transformers.
"""
