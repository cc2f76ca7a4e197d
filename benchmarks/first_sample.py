"""How long does the first `ex.sample` of a fresh process take, once JAX's cache on disk is warm?"""

import os
import statistics
import sys
import tempfile

from benchmarks._timing import Options, Report, Timing, child, ratio

SAMPLE = """
import jax
import jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import energax as ex
{energy}
ex.sample(energy, 1_000, key=ex.random.key(0))
"""
PLANE = SAMPLE.format(
    energy="""
def f(x):
    return -0.5 * jnp.sum((x - 0.3) ** 2) - 0.1 * jnp.sum(x) ** 2
energy = ex.from_log_density(f, ex.Real((2,)))"""
)
RBM = SAMPLE.format(
    energy="""
import numpy as np
rng = np.random.default_rng(0)
energy = ex.energies.BernoulliRBM(
    rng.normal(0, 0.3, (12, 6)), rng.normal(0, 0.3, 12), rng.normal(0, 0.3, 6))"""
)
JAX = "import jax, one compiled sum"
STATEMENTS = {
    JAX: "import jax, jax.numpy as jnp; jax.jit(jnp.sum)(jnp.ones(3)).block_until_ready()",
    "ex.sample of a 2-d energy": PLANE,
    "ex.sample of a 12-6 RBM": RBM,
    "ex.sample of a 2-d energy, no cache": PLANE,
}


def run(options: Options) -> Report:
    timings = [Timing(name, 0.0, [], [], 0.0) for name in STATEMENTS]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for repetition in range(1 + options.rounds(7)):
            for timing in timings:
                here = dict(environment)
                if "no cache" not in timing.name:
                    here["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/cache"
                command = [sys.executable, "-c", STATEMENTS[timing.name]]
                wall, cpu, peak = child(command, env=here)
                if repetition == 0:  # fills the cache, writes the bytecode
                    timing.first = wall
                    continue
                timing.wall.append(wall)
                timing.cpu.append(cpu)
                timing.peak_mib = max(timing.peak_mib, peak)
    for timing in timings:
        timing.first -= statistics.median(timing.wall)
    limits = []
    for timing in timings[1:3]:
        beyond = [a - b for a, b in zip(timing.cpu, timings[0].cpu, strict=True)]
        limits.append((f"{timing.name}: CPU s beyond JAX's own", statistics.median(beyond), 2.0))
    return Report(
        name="first_sample",
        question="A fresh process up to the end of its first `ex.sample(energy, 1_000)`, JAX's "
        "persistent compilation cache (JAX_COMPILATION_CACHE_DIR) warm.",
        timings=timings,
        ratios=[ratio(timings, "ex.sample of a 2-d energy, no cache", "ex.sample of a 2-d energy")],
        limits=limits,
        notes=[
            "The start of the interpreter is in all of them. The cache holds every compilation, "
            "however short (jax_persistent_cache_min_compile_time_secs = 0)."
        ],
    )
