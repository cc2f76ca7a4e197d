"""The parts of `sample`: where chains start, what is kept of them, and whether to trust it."""
