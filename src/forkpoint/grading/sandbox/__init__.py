"""The sandbox that runs untrusted programs, at the strongest level of protection that the system offers.

`choose` finds the level by trying, `launch` starts a program (both in the process that asks); `outer` and
`program` are the two processes of a sandbox, and `mounts`, `landlock` and `seccomp` are what they use of
Linux. `directories` holds the directories of the levels that need one.
Invariant: the files that run in the sandbox (`outer`, `program`, `mounts`, `landlock`, `seccomp`) import
only each other and the standard library, and little of that: it is loaded for every program.
"""
