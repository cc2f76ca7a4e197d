"""How much does `import energax` cost beside `import jax`?"""

import os
import statistics
import sys
import tempfile

from benchmarks._timing import Options, Report, Timing, child, ratio

VERBS = "import energax, name its verbs"
STATEMENTS = {
    "import energax": "import energax",
    "import jax": "import jax",
    "import equinox": "import equinox",
    VERBS: "import energax as ex; ex.sample, ex.fit, ex.log_z, ex.denoise",
}


def run(options: Options) -> Report:
    timings = [Timing(name, 0.0, [], [], 0.0) for name in STATEMENTS]
    with tempfile.TemporaryDirectory() as bytecode:
        # Where bytecode beside the source is forbidden, energax would be compiled each time.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for repetition in range(1 + options.rounds(10)):
            for timing in timings:
                command = [sys.executable, "-c", STATEMENTS[timing.name]]
                wall, cpu, peak = child(command, env=environment)
                if repetition == 0:  # writes the bytecode and brings the files into memory
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
            ratio(timings, VERBS, "import jax", at_most=1.6, clock="cpu"),
        ],
        notes=[
            "The start of the interpreter is in all of them.",
            "energax imports a room when one of its names is first used; the last row pays for all "
            "that sampling, fitting and log Z need.",
        ],
    )
