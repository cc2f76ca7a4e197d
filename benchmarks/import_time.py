"""How much does `import energax` cost beside `import jax`?"""

import statistics
import sys

from benchmarks._timing import Options, Report, Timing, child, ratio


def run(options: Options) -> Report:
    timings = [Timing(f"import {name}", 0.0, [], [], 0.0) for name in ("energax", "jax", "equinox")]
    for repetition in range(1 + options.rounds(10)):
        for timing in timings:
            wall, cpu, peak = child([sys.executable, "-c", timing.name])
            if repetition == 0:  # bytecode is written and files come into memory
                timing.first = wall
                continue
            timing.wall.append(wall)
            timing.cpu.append(cpu)
            timing.peak_mib = max(timing.peak_mib, peak)
    for timing in timings:
        timing.first -= statistics.median(timing.wall)
    return Report(
        name="import_time",
        question="A fresh interpreter that imports energax, beside one that imports JAX.",
        timings=timings,
        ratios=[
            ratio(timings, "import energax", "import jax", at_most=1.6, clock="cpu"),
            ratio(timings, "import energax", "import equinox"),
        ],
        notes=["The start of the interpreter is in all of them."],
    )
