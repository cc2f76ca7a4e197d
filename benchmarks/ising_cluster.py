"""Near the critical point of the Ising model, how much do cluster moves gain over heat bath?

The magnetisation changes its sign at once with a cluster, and with heat bath not for thousands of
sweeps; its size |m| is what both have enough effective draws of to count well. The target is asked
of the magnetisation m itself, and the ratio of |m| stands beside it.
"""

import statistics

import numpy as np

from benchmarks._timing import Contender, Options, Ratio, Report, race

SIDE, CHAINS, COUPLING = 64, 32, 0.44
# Steps of one timing, and of the run that effective draws are counted in, thinned
STEPS = {"ColouredGibbs": 300, "SwendsenWang": 60, "Wolff": 60}
LONG = {"ColouredGibbs": (40_000, 40), "SwendsenWang": (2_000, 1), "Wolff": (2_000, 1)}


def run(options: Options) -> Report:
    timings = race(
        [Contender(name, "benchmarks.ising_cluster:steps", {"name": name}) for name in STEPS],
        options.rounds(7),
        options.threads,
    )
    by_name = {timing.name: timing for timing in timings}
    per_step = {name: effective(name, seed=1) for name in STEPS}

    def seconds(name, clock, what=1):  # that one effective draw takes, round by round
        return [t / STEPS[name] / per_step[name][what] for t in getattr(by_name[name], clock)]

    def compare(slow, fast, what, **target):
        return Ratio(
            f"{slow}, {('m', 'size of m')[what]}",
            fast,
            *(
                statistics.median(
                    a / b
                    for a, b in zip(
                        seconds(slow, clock, what), seconds(fast, clock, what), strict=True
                    )
                )
                for clock in ("wall", "cpu")
            ),
            clock="cpu",
            **target,
        )

    rates = [
        f"{name} {1 / statistics.median(seconds(name, 'cpu')):.3g} "
        f"({1 / statistics.median(seconds(name, 'cpu', 0)):.3g} with its sign; "
        f"{1e9 * by_name[name].cpu_median / STEPS[name] / CHAINS / SIDE**2:.3g} ns a spin and step)"
        for name in STEPS
    ]
    return Report(
        name="ising_cluster",
        question="Seconds that one effective draw of the magnetisation m, or of |m|, takes on the "
        f"periodic {SIDE}×{SIDE} Ising model at K = {COUPLING}, {CHAINS} chains. The timings are "
        f"of {', '.join(f'{n} steps of {name}' for name, n in STEPS.items())}.",
        timings=timings,
        ratios=[
            compare("ColouredGibbs", "SwendsenWang", 0, at_least=10.0),
            compare("ColouredGibbs", "Wolff", 0),
            compare("ColouredGibbs", "SwendsenWang", 1),
            compare("ColouredGibbs", "Wolff", 1),
        ],
        notes=[
            "Effective draws of |m| per CPU second: " + ", ".join(rates) + ".",
            "Effective draws are those of the mean (Vehtari et al. 2021), all chains together, "
            "counted in a run of its own after a warm-up by Swendsen-Wang; with its sign heat bath "
            "has too few to count well.",
        ],
    )


def _job(name):
    import jax

    from energax import random, samplers
    from energax.energies import Ising
    from energax.samplers._base import run

    energy = Ising.grid((SIDE, SIDE), COUPLING)

    def go(name, x, seed, num_steps, thin=1, keep=False):
        sampler = getattr(samplers, name)()
        key = random.key(seed)
        state, tuning = sampler.init(energy, x, key=key)
        state, _, trace = run(
            sampler, energy, state, tuning, key=key, num_steps=num_steps, thin=thin, keep=keep
        )
        return jax.block_until_ready((state.x, trace.x))

    return go


def steps(name):
    import jax.numpy as jnp

    go = _job(name)
    x, _ = go("SwendsenWang", jnp.ones((CHAINS, SIDE, SIDE)), 0, 100)
    return lambda: go(name, x, 1, STEPS[name])


def effective(name: str, seed: int) -> list[float]:
    """Effective draws of m and of |m| a step, all chains together."""
    import jax.numpy as jnp

    from energax.diagnostics import ess_mean

    go = _job(name)
    num_steps, thin = LONG[name]
    x, _ = go("SwendsenWang", jnp.ones((CHAINS, SIDE, SIDE)), seed, 200)
    means = []
    for block in range(10):
        x, kept = go(name, x, seed + 1 + block, num_steps // 10, thin, True)
        means.append(np.asarray(kept, np.float64).mean((2, 3)))
    m = np.concatenate(means).T
    return (ess_mean(np.stack([m, abs(m)], -1)) / num_steps).tolist()
