"""What does `energax demo`, the main job, cost in time and memory?"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._timing import Options, Report, Timing, child

MINUTES, GIB = 5.0, 2.0


def run(options: Options) -> Report:
    timing = Timing("energax demo", 0.0, [], [], 0.0)
    program = "from energax.cli import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(1 if options.quick else 3):
            out = str(Path(folder) / f"run{repetition}")
            command = [sys.executable, "-c", program, "demo", "--out", out]
            wall, cpu, peak = child(command, stdout=subprocess.DEVNULL)
            timing.wall.append(wall)
            timing.cpu.append(cpu)
            timing.peak_mib = max(timing.peak_mib, peak)
    return Report(
        name="demo",
        question="`energax demo` from the start of its process to the written report.",
        timings=[timing],
        ratios=[],
        limits=[
            ("minutes, wall", timing.wall_median / 60, MINUTES),
            ("peak memory, GiB", timing.peak_mib / 1024, GIB),
        ],
        notes=["Compiling is within; no compile cache is kept from run to run."],
    )
