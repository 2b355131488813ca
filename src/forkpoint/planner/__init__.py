"""The cost of an experiment before it is run: tokens, FLOPs, GPU hours, money.

`volume.py` counts tokens, `hardware.py` turns them into seconds, `pilot.py` measures instead of assuming,
`recipe.py` reads an experiment from a file, `commands.py` says how much its command lines compute,
`estimate.py` puts these together.
Invariant: every number is a product of named fields and of facts in the tables here; nothing is run, loaded
or downloaded.
"""
