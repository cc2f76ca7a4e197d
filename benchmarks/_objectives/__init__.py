"""Data sets, objectives and runs for `benchmarks.objectives_table`."""
