"""Looks at a PRM, a data file or a policy before it is used, and says what is wrong with it.

`prm`, `data` and `policy` hold one examination each: a list of named checks, each ending in a `Finding`.
Invariant: nothing is changed and nothing is repaired; what was not looked at is not called ok. Importing this file loads
neither torch nor transformers.
"""
