"""Speed and memory of energax beside its peers: `python -m benchmarks`, or `make bench`.

One file a question. A file holds `run(options) -> Report` and the contenders' `setup` functions;
`_timing` runs each contender in a process of its own, by turns, and gathers the figures.
"""
