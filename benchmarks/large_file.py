"""Does a file of 8 GB train in under 2 GiB, and what does reading it cost?

An .npy file of 2.55 million rows of 784 float32, sparse on the disk but for every thousandth row,
is trained on once from end to end (PCD-1 of an RBM 784-100, minibatches of 100); then as many steps
on rows that lie in memory.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._timing import Options, Report, Timing, isolated, say

GIGABYTES, COLUMNS, BATCH, MOST_MIB = 8, 784, 100, 2048.0


def run(options: Options) -> Report:
    gigabytes = GIGABYTES / 8 if options.quick else GIGABYTES
    found, timings = {}, []
    for how in ("from the file", "from memory"):
        arguments = {"how": how, "gigabytes": gigabytes}
        found[how] = isolated("benchmarks.large_file:trained", arguments, options.threads)
        each = found[how]
        timings.append(Timing(how, each["first"], [each["wall"]], [each["cpu"]], each["peak"]))
    steps = found["from the file"]["steps"]
    cost = {how: 1e6 * each["cpu"] / steps for how, each in found.items()}
    line = (
        f"{steps:,} steps of {BATCH} rows: {cost['from the file']:.0f} CPU µs a step from the "
        f"file, {cost['from memory']:.0f} from memory; on the disk the file takes "
        f"{found['from the file']['on_disk'] / 2**20:.0f} MiB"
    )
    say(line)
    return Report(
        name="large_file",
        question=f"One pass through {gigabytes:g} GB, PCD-1 of an RBM {COLUMNS}-100, float32.",
        timings=timings,
        ratios=[],
        limits=[("MiB at the most, from the file", timings[0].peak_mib, MOST_MIB)],
        notes=[line],
    )


def trained(how: str, gigabytes: float) -> dict:
    import jax

    from energax import io, objectives, random, training
    from energax.energies import BernoulliRBM

    rows = int(gigabytes * 1e9) // (4 * COLUMNS)
    steps = rows // BATCH
    key = random.key(0)
    start = BernoulliRBM.random(COLUMNS, 100, key=key)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        _write(path, rows)
        on_disk = path.stat().st_blocks * 512
        data = io.open_rows(path) if how == "from the file" else io.open_rows(path).read(0, 20_000)
        took = []
        for num_steps in (20, steps):
            wall, cpu = time.perf_counter(), time.process_time()
            fit = training.fit(start, data, objectives.PersistentCD(), key=key, num_steps=num_steps)
            jax.block_until_ready(fit.energy.weight)
            took.append((time.perf_counter() - wall, time.process_time() - cpu))
        assert fit.num_steps == steps and bool(np.isfinite(fit.energy.weight).all())
    (first, _), (wall, cpu) = took
    return {"first": first, "wall": wall, "cpu": cpu, "steps": steps, "on_disk": on_disk}


def _write(path: Path, rows: int) -> None:
    """Zeros that take no room, and every thousandth row of random bits."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, COLUMNS)}
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.truncate(start + rows * 4 * COLUMNS)
        for row in range(0, rows, 1_000):
            file.seek(start + row * 4 * COLUMNS)
            file.write((rng.random(COLUMNS) < 0.3).astype("<f4").tobytes())
