"""Do the random bits pass dieharder, the long battery? (Debian: `apt-get install dieharder`)"""

import re
import shutil
import subprocess
import sys

from benchmarks._timing import Options, Report

# Brown, Eddelbuettel & Bauer: by number; those whose p-values are known to be off (5, 6, 7, 14) are
# left out, as the program's own manual advises.
TESTS = {
    0: "birthdays",
    1: "overlapping 5-permutations",
    2: "32×32 binary rank",
    8: "count the 1s, stream",
    9: "count the 1s, byte",
    10: "parking lot",
    15: "runs",
    17: "Marsaglia-Tsang gcd",
    100: "monobit",
    101: "runs of STS",
    102: "serial",
    200: "bit distribution",
    203: "lagged sums",
    204: "Kolmogorov-Smirnov",
    205: "byte distribution",
    207: "filltree",
}
_LINE = re.compile(r"^\s*([\w#-]+)\s*\|\s*(\d+)\s*\|\s*(\d+)\s*\|\s*(\d+)\s*\|\s*([\d.]+)\s*\|")
_CHUNK = 2**22


def run(options: Options) -> Report:
    notes, limits = [], []
    if shutil.which("dieharder") is None:
        notes.append("dieharder is not installed (apt-get install dieharder): nothing was run")
        return Report("random_battery", __doc__ or "", [], [], notes=notes)
    tests = [0, 2, 100, 101] if options.quick else list(TESTS)
    streams = ["one key"] if options.quick else ["one key", "a key for each 4,096 words"]
    for stream in streams:
        values = []
        for number in tests:
            values += [(number, *found) for found in _dieharder(number, stream)]
        worst = min(min(p, 1 - p) for *_, p in values)
        needed = 1e-4 / len(values)
        limits.append(
            (
                f"{stream}: tests of {len(values)} with p outside ({needed:.1g}, 1 − that)",
                float(sum(min(p, 1 - p) < needed for *_, p in values)),
                0.0,
            )
        )
        notes.append(f"{stream}: {len(values)} p-values, the most extreme {worst:.2g} from an end")
        notes += [
            f"{stream}: {TESTS[number]}{f' ({width} bits)' if width else ''} p = {p:.4f}"
            for number, width, p in values
            if min(p, 1 - p) < 0.01
        ]
    return Report(
        name="random_battery",
        question="Random bits of energax.random.key through dieharder, as one stream and as the "
        "first 4,096 words of one key after another.",
        timings=[],
        ratios=[],
        limits=limits,
        notes=notes,
    )


def _dieharder(number: int, stream: str) -> list[tuple[int, float]]:
    """(width, p) of one test fed by our bits."""
    words = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.random_battery", stream], stdout=subprocess.PIPE
    )
    try:
        done = subprocess.run(
            ["dieharder", "-g", "200", "-d", str(number), "-k", "2"],
            stdin=words.stdout,
            capture_output=True,
            text=True,
            timeout=1_200,
        )
    finally:
        words.kill()
        words.wait()
    found = [match for match in map(_LINE.match, done.stdout.splitlines()) if match]
    if not found:
        raise RuntimeError(f"dieharder -d {number} gave no result: {done.stdout} {done.stderr}")
    return [(int(match[2]), float(match[5])) for match in found]


def _pour(stream: str) -> None:
    """Words to stdout until nobody reads them."""
    import jax
    import numpy as np

    from energax import random

    bulk = jax.jit(lambda key: jax.random.bits(key, (_CHUNK,)))
    short = jax.jit(jax.vmap(lambda key: jax.random.bits(key, (4_096,))))
    key = random.key(20_261_124)
    for i in range(10_000):
        here = jax.random.fold_in(key, i)
        bits = bulk(here) if stream == "one key" else short(jax.random.split(here, _CHUNK // 4_096))
        try:
            sys.stdout.buffer.write(np.asarray(bits).tobytes())
        except BrokenPipeError:
            return


if __name__ == "__main__":
    _pour(sys.argv[1])
