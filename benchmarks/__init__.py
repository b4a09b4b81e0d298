"""Measurements that need a checkout: training against the released code's way, families of models, memory, compiling.

Run from the root of the repository, as in `python -m benchmarks.train`. What measures one's own model or machine is in
the package: `unspoken bench` (docs/decisions/025).
"""
