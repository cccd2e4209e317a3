"""Benchmarks: the engine beside others on the same workloads, on the same machine, in the same run.

Everything a peer's environment imports (`graphs`, `blocks`, `measuring`) uses the standard library only.
"""
