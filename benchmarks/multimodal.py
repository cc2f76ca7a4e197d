"""How soon are 25 modes of unequal weight known, beside BlackJAX's tempered SMC and TFP's replica
exchange?"""

import json
import tempfile
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks._timing import Contender, Options, Ratio, Report, Timing, race

HERE = "benchmarks.multimodal"
SD = 0.4
BASE_SD = 5.0
WEIGHTS = np.arange(1, 26) / 325
ACCURACY = {2: 0.025, 10: 0.05}
"""sd of log Z, in nats, to which times are scaled: a method's variance falls as 1/time."""
WAYS = {
    "energax tempered SMC": "energax_smc",
    "energax parallel tempering": "energax_tempering",
    "BlackJAX tempered SMC": "blackjax_smc",
    "TFP replica exchange": "tfp_exchange",
}


def centres(dim: int) -> np.ndarray:
    """In the plane a grid of spacing 3; else uniform in [−6, 6]ᵈ."""
    if dim == 2:
        axis = np.linspace(-6, 6, 5)
        return np.stack(np.meshgrid(axis, axis), -1).reshape(25, 2)
    return np.random.default_rng(0).uniform(-6, 6, (25, dim))


def run(options: Options) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        contenders, names = [], {}
        for dim in ACCURACY:
            for name, setup in WAYS.items():
                path = str(Path(folder) / f"{setup}-{dim}.jsonl")
                full = f"{name}, {dim}-d"
                names[full] = (dim, path)
                contenders.append(Contender(full, f"{HERE}:{setup}", {"dim": dim, "record": path}))
        timings = race(contenders, options.rounds(16), options.threads)
        found = {name: _Found(dim, path) for name, (dim, path) in names.items()}
    limits = []
    for name, what in found.items():
        if name.startswith("energax"):
            limits.append((f"modes missed: {name}", float(what.num_missed), 0.0))
            limits.append((f"−log₁₀ p of the weights: {name}", float(-np.log10(what.p_value)), 4.0))
    ratios = [
        _to_accuracy(timings, found, f"{slow}, {dim}-d", f"energax {fast}, {dim}-d", least)
        for dim in ACCURACY
        for fast, least in (("tempered SMC", 1.0), ("parallel tempering", None))
        for slow in ("BlackJAX tempered SMC", "TFP replica exchange")
    ]
    return Report(
        name="multimodal",
        question="25 Gaussian modes of weights 1 to 25 in 2 and in 10 dimensions, sd 0.4, in a box "
        "of 12 by 12: CPU seconds to the same error of log Z (ratios: time × mean squared error), "
        "every mode found, and the modes' weights right.",
        timings=timings,
        ratios=ratios,
        limits=limits,
        notes=[_note(name, what, timings) for name, what in found.items()]
        + [
            f"All start from the base N(0, {BASE_SD:g}²). p is of a χ² of the modes' weights, each "
            "at its own effective number of draws, which the spread between runs gives.",
            "The peers' kernels are tuned by hand on this target, ours by themselves in each run; "
            "the times hold warm-up and pilot runs.",
        ],
    )


class _Found:
    """What a contender's runs found: errors of log Z, and shares of the modes."""

    def __init__(self, dim: int, path: str):
        runs = [json.loads(line) for line in Path(path).read_text().splitlines()]
        truth = dim / 2 * np.log(2 * np.pi * SD**2)
        errors = np.array([run["log_z"] for run in runs]) - truth
        shares = np.array([run["shares"] for run in runs])
        self.dim = dim
        self.rmse = float(np.sqrt(np.mean(errors**2)))
        self.num_missed = int(np.max(np.sum(shares == 0, axis=1)))
        variance = shares.var(0, ddof=1)
        self.ess = float(np.median(WEIGHTS * (1 - WEIGHTS) / variance))
        from scipy import stats

        # Each mode at its own effective number, known from so many runs only: t, read as normal
        t = (shares.mean(0) - WEIGHTS) / np.sqrt(variance / len(runs))
        tail = np.clip(stats.t.sf(np.abs(t), len(runs) - 1), 1e-300, 0.5)
        statistic = np.sum((1 - WEIGHTS) * stats.norm.isf(tail) ** 2)
        self.p_value = max(float(stats.chi2.sf(statistic, 24)), 1e-300)


def _timing(timings: list[Timing], name: str) -> Timing:
    return next(timing for timing in timings if timing.name == name)


def _to_accuracy(timings, found, slow: str, fast: str, least: float | None) -> Ratio:
    a, b = _timing(timings, slow), _timing(timings, fast)
    error = (found[slow].rmse / found[fast].rmse) ** 2
    wall = float(np.median(np.divide(a.wall, b.wall)) * error)
    cpu = float(np.median(np.divide(a.cpu, b.cpu)) * error)
    return Ratio(slow, fast, wall, cpu, at_least=least, clock="cpu")


def _note(name: str, what: _Found, timings) -> str:
    cpu = _timing(timings, name).cpu_median
    wanted = ACCURACY[what.dim]
    return (
        f"{name}: log Z within {what.rmse:.3f} (root mean square) in {cpu:.3f} CPU s, so "
        f"{cpu * (what.rmse / wanted) ** 2:.3f} CPU s to {wanted}; {what.ess:.0f} effective draws "
        f"of the modes; at most {what.num_missed} missed; p = {what.p_value:.2g}"
    )


def _log_density(dim: int):
    import jax
    import jax.numpy as jnp

    places, log_weights = jnp.asarray(centres(dim), float), jnp.log(jnp.asarray(WEIGHTS, float))

    def f(x):
        square = jnp.sum((x[..., None, :] - places) ** 2, axis=-1)
        return jax.nn.logsumexp(log_weights - square / (2 * SD**2), axis=-1)

    return f


def _log_base(x):
    import jax.numpy as jnp

    dim = x.shape[-1]
    return -jnp.sum(x**2, axis=-1) / (2 * BASE_SD**2) - dim / 2 * np.log(2 * np.pi * BASE_SD**2)


def _recorder(dim: int, record: str):
    """Writes down log Z and each mode's share of draws (rows, dim) with weights."""
    places = centres(dim)

    def write(log_z, x, weights=None):
        x = np.asarray(x, np.float64).reshape(-1, dim)
        square = (x**2).sum(1)[:, None] - 2 * x @ places.T + (places**2).sum(1)
        mode = np.argmin(square, axis=1)
        shares = np.bincount(mode, weights, minlength=25)
        line = {"log_z": float(log_z), "shares": (shares / shares.sum()).tolist()}
        with Path(record).open("a") as file:
            file.write(json.dumps(line) + "\n")

    return write


def _energax(dim: int):
    from energax import from_log_density
    from energax.energies import Gaussian
    from energax.spaces import Real

    space = Real((dim,))
    return from_log_density(_log_density(dim), space), Gaussian(space, 0.0, BASE_SD)


def energax_smc(dim: int, record: str):
    from energax import random
    from energax.samplers import MALA, Metropolis, TemperedSMC

    energy, base = _energax(dim)
    inner = Metropolis() if dim == 2 else MALA()
    method = TemperedSMC(inner, base, num_particles=256 if dim == 2 else 1024)
    write, seeds = _recorder(dim, record), count()

    def once():
        found = method.run(energy, key=random.key(next(seeds)))
        write(found.log_z.value, found.x, found.weights.ravel())

    return once


def energax_tempering(dim: int, record: str):
    import equinox as eqx

    from energax import random
    from energax.samplers import MALA, Metropolis, ParallelTempering
    from energax.samplers._base import run

    energy, base = _energax(dim)
    inner = Metropolis() if dim == 2 else MALA()
    sampler = ParallelTempering(inner, base, num_rungs=4 if dim == 2 else 12)
    write, seeds = _recorder(dim, record), count()
    init, describe = eqx.filter_jit(sampler.init), eqx.filter_jit(sampler.describe)
    warmup, steps = (256, 512) if dim == 2 else (512, 2048)

    def once():
        key = random.key(next(seeds))
        state, tuning = init(energy, base.draw(64, key=key), key=key)
        state, tuning, _ = run(
            sampler, energy, state, tuning, key=key, num_steps=warmup, adapt=True, keep=False
        )
        state, tuning, trace = run(
            sampler, energy, state, tuning, key=random.key(1000 + next(seeds)), num_steps=steps
        )
        write(describe(state, tuning)["log_z"], trace.x)

    return once


def blackjax_smc(dim: int, record: str):
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import adaptive_tempered, resampling

    f = _log_density(dim)
    num, moves, scale = BLACKJAX[dim]
    walk = blackjax.additive_step_random_walk.build_kernel()

    def step(key, state, log_density, sd):
        return walk(key, state, log_density, blackjax.mcmc.random_walk.normal(sd))

    kernel = adaptive_tempered.build_kernel(
        _log_base,
        lambda x: f(x) - _log_base(x),
        step,
        blackjax.additive_step_random_walk.init,
        resampling.systematic,
        0.5,
    )

    @jax.jit
    def loop(key):
        key, key_start = jax.random.split(key)
        x = BASE_SD * jax.random.normal(key_start, (num, dim))

        def body(carry):
            state, key, log_z = carry
            key, key_step = jax.random.split(key)
            beta = state.tempering_param
            sd = jnp.minimum(jnp.std(state.particles, axis=0), scale / jnp.sqrt(beta + 1e-6))
            state, info = kernel(key_step, state, moves, {"sd": sd[None]})
            return state, key, log_z + info.log_likelihood_increment

        start = adaptive_tempered.init(x), key, jnp.zeros(())
        return jax.lax.while_loop(lambda carry: carry[0].tempering_param < 1, body, start)

    write, seeds = _recorder(dim, record), count()

    def once():
        state, _, log_z = loop(jax.random.key(next(seeds)))
        write(log_z, state.particles, np.asarray(state.weights, np.float64))

    return once


BLACKJAX = {2: (4096, 4, 0.4 * 2.38 / 2**0.5), 10: (16384, 8, 0.4 * 2.38 / 10**0.5)}
"""Particles, moves a rung, and a random walk's sd at β = 1. MALA in 10-d took longer."""


def tfp_exchange(dim: int, record: str):
    import jax
    import jax.numpy as jnp
    import tensorflow_probability.substrates.jax as tfp

    f = _log_density(dim)
    num_chains, warmup, steps, num_rungs, scale = TFP[dim]
    betas = (jnp.arange(num_rungs, 0, -1) / num_rungs) ** 3
    betas = jnp.concatenate([betas, jnp.zeros(1)]).astype(float)  # 1 first
    sd = jnp.minimum(scale / jnp.sqrt(betas + 1e-6), BASE_SD)[:, None, None]

    def inner(log_density):
        return tfp.mcmc.RandomWalkMetropolis(
            log_density,
            new_state_fn=tfp.mcmc.random_walk_normal_fn(scale=sd),
        )

    kernel = tfp.mcmc.ReplicaExchangeMC(
        None,
        betas,
        inner,
        untempered_log_prob_fn=_log_base,
        tempered_log_prob_fn=lambda x: f(x) - _log_base(x),
    )

    @jax.jit
    def loop(key):
        key_start, key = jax.random.split(key)
        x = BASE_SD * jax.random.normal(key_start, (num_chains, dim))

        def kept(state, results):
            (replicas,) = results.post_swap_replica_states
            return state, f(replicas) - _log_base(replicas)

        x, u = tfp.mcmc.sample_chain(
            steps, x, kernel=kernel, num_burnin_steps=warmup, trace_fn=kept, seed=key
        )[1]
        u = jnp.moveaxis(u, 1, 0).reshape(num_rungs + 1, -1)
        gaps = (betas[:-1] - betas[1:])[:, None]
        up, down = gaps * u[1:], gaps * u[:-1]
        centre = (jnp.mean(up, 1) + jnp.mean(down, 1)) / 2
        for _ in range(5):  # Bennett's acceptance ratio, as of ours
            ratio = jnp.log(jnp.mean(jax.nn.sigmoid(up - centre[:, None]), 1))
            centre += ratio - jnp.log(jnp.mean(jax.nn.sigmoid(centre[:, None] - down), 1))
        return x, jnp.sum(centre)

    write, seeds = _recorder(dim, record), count()

    def once():
        x, log_z = loop(jax.random.key(next(seeds)))
        write(log_z, x)

    return once


TFP = {
    2: (64, 256, 1024, 4, 0.4 * 2.38 / 2**0.5),
    10: (64, 1024, 4096, 16, 0.4 * 2.38 / 10**0.5),
}
"""Chains, warm-up, steps, rungs above the base, and a random walk's sd at β = 1."""
