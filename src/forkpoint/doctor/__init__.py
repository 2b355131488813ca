"""Examine a PRM, a data file or a policy before it is used, and say what is wrong with it.

`prm`, `data` and `policy` hold one examination each: a list of named checks, each of which ends in a
`Finding`.
Invariant: nothing is changed or repaired, and a check that was not made is not reported as ok. Importing this
file loads neither torch nor transformers.
"""
