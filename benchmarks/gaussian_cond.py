"""Effective draws a second from a stretched, rotated normal: who learns its shape fastest?"""

import importlib
import multiprocessing
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks._timing import Options, Report, Timing, ratio, say

DIM, CONDITION, CHAINS = 100, 1e4, 64
HERE = "benchmarks.gaussian_cond"
CONTENDERS = {  # name: (function, arguments)
    "energax ChEES": ("energax", {}),
    "energax ChEES, diagonal metric": ("energax", {"dense": False}),
    "BlackJAX ChEES, diagonal metric": ("blackjax_chees", {}),
    "BlackJAX NUTS, dense metric": ("blackjax_nuts", {}),
    "BlackJAX MEADS": ("blackjax_meads", {}),
    "NumPyro NUTS, dense metric": ("numpyro_nuts", {}),
    "TFP SNAPER": ("tfp_snaper", {}),
}


def run(options: Options) -> Report:
    seeds = [1, 2]  # NumPyro takes a minute each
    timings, notes = [], []
    for name, (function, arguments) in CONTENDERS.items():
        say(f"  {name} ...")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            answer = pool.submit(measure, function, arguments, seeds).result()
        if isinstance(answer, str):
            notes.append(f"{name} did not run here: {answer}")
            continue
        first, walls, cpus, worst, sizes, errors = answer
        per = [1_000 / ess for ess in worst]
        timings.append(
            Timing(
                name,
                first,
                [wall * p for wall, p in zip(walls, per, strict=True)],
                [cpu * p for cpu, p in zip(cpus, per, strict=True)],
                0.0,
            )
        )
        rate = np.median([ess / cpu for ess, cpu in zip(worst, cpus, strict=True)])
        notes.append(
            f"{name}: worst bulk ESS {np.median(worst):,.0f} of {sizes[0]:,} draws in "
            f"{np.median(cpus):.2f} CPU s with warm-up, {rate:,.0f} a CPU second; the sds are off "
            f"by up to {100 * max(errors):.0f} %"
        )
        say("  " + notes[-1])
    ours = timings[0].name
    return Report(
        name="gaussian_cond",
        question=f"Seconds for 1,000 effective draws of the worst coordinate, warm-up included, "
        f"compilation not: {DIM}-d normal, rotated, condition number {CONDITION:g}, {CHAINS} "
        "chains from N(0, 1), by bulk ESS over all chains.",
        timings=timings,
        ratios=[
            ratio(timings, t.name, ours, at_least=1.0, clock="cpu")
            for t in timings
            if not t.name.startswith("energax")
        ],
        notes=[
            *notes,
            "Each has the warm-up its authors advise: 1,000 steps of the ensemble for ChEES, MEADS "
            "and SNAPER, 1,000 steps of one chain, whose tuning all share, and 100 of every chain "
            "for BlackJAX's NUTS, 500 of every chain for NumPyro's; 500 for energax. "
            "Peak memory is not measured.",
        ],
    )


def measure(function: str, arguments: dict, seeds: list[int]):
    """(compile s, wall s, CPU s, worst ESS, draws, largest relative error of an sd) by seed."""
    try:
        once = getattr(importlib.import_module(HERE), function)(**arguments)
        start = time.perf_counter()
        once(0)
        first = time.perf_counter() - start
        from energax.diagnostics import ess_bulk

        walls, cpus, worst, sizes, errors = [], [], [], [], []
        truth = np.sqrt(np.diag(covariance()))
        for seed in seeds:
            wall, cpu = time.perf_counter(), time.process_time()
            x = once(seed)  # (chains, draws, DIM)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
            x = np.asarray(x, float)
            worst.append(float(ess_bulk(x).min()))
            sizes.append(x.shape[0] * x.shape[1])
            errors.append(float(np.abs(x.std((0, 1)) / truth - 1).max()))
        return first - walls[0], walls, cpus, worst, sizes, errors
    except ImportError as error:
        return f"{error}"
    except Exception:
        return traceback.format_exc(limit=-2)


def _shape():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))
    return rotation, np.logspace(0, -np.log10(CONDITION), DIM)


def covariance() -> np.ndarray:
    rotation, variance = _shape()
    return rotation * variance @ rotation.T


def log_density():
    import jax.numpy as jnp

    rotation, variance = _shape()
    precision = jnp.asarray(rotation / variance @ rotation.T, jnp.float32)
    return lambda x: -0.5 * x @ (precision @ x)


def _starts(key):
    import jax

    return jax.random.normal(key, (CHAINS, DIM))


def energax(dense=None, num_warmup=500, num_steps=1_000):
    import jax

    from energax import random
    from energax.energies import from_log_density
    from energax.samplers import ChEES
    from energax.samplers._base import run_fixed
    from energax.spaces import Real

    energy, sampler = from_log_density(log_density(), Real((DIM,))), ChEES(dense=dense)
    if dense is False:
        num_warmup = 1_000

    def once(seed):
        key, key_start = jax.random.split(random.key(seed))
        trace = run_fixed(
            sampler,
            energy,
            _starts(key_start),
            key=key,
            num_warmup=num_warmup,
            num_steps=num_steps,
        )
        return np.moveaxis(np.asarray(trace.x), 0, 1)

    return once


def _jitted(loop):
    """`loop(key)` -> (draws, chains, DIM), compiled, as a function of the seed."""
    import jax

    compiled = jax.jit(loop)
    return lambda seed: np.moveaxis(np.asarray(compiled(jax.random.key(seed))), 0, 1)


def _chains(step, states, key, num_steps):
    """num_steps steps of all chains by `step(key, state)`."""
    import jax

    def body(states, key):
        states, _ = jax.vmap(step)(jax.random.split(key, CHAINS), states)
        return states, states.position

    return jax.lax.scan(body, states, jax.random.split(key, num_steps))[1]


def blackjax_chees(num_warmup=1_000, num_steps=1_000):
    import blackjax
    import jax
    import optax

    f = log_density()
    warmup = blackjax.chees_adaptation(f, CHAINS, mass_matrix_estimation="diagonal")

    def loop(key):
        key_start, key_warmup, key_run = jax.random.split(key, 3)
        (states, parameters), _ = warmup.run(
            key_warmup, _starts(key_start), 0.1, optax.adam(0.02), num_warmup
        )
        return _chains(blackjax.dynamic_hmc(f, **parameters).step, states, key_run, num_steps)

    return _jitted(loop)


def blackjax_nuts(num_warmup=1_000, num_burn_in=100, num_steps=500):
    import blackjax
    import jax

    f = log_density()
    warmup = blackjax.window_adaptation(blackjax.nuts, f, is_mass_matrix_diagonal=False)

    def loop(key):
        key_start, key_warmup, key_run = jax.random.split(key, 3)
        starts = _starts(key_start)
        (_, parameters), _ = warmup.run(key_warmup, starts[0], num_warmup)
        nuts = blackjax.nuts(f, **parameters)
        x = _chains(nuts.step, jax.vmap(nuts.init)(starts), key_run, num_burn_in + num_steps)
        return x[num_burn_in:]

    return _jitted(loop)


def blackjax_meads(num_warmup=1_000, num_steps=1_000):
    import blackjax
    import jax

    f = log_density()
    warmup = blackjax.meads_adaptation(f, CHAINS)

    def loop(key):
        key_start, key_warmup, key_run = jax.random.split(key, 3)
        (states, parameters), _ = warmup.run(key_warmup, _starts(key_start), num_warmup)
        return _chains(blackjax.ghmc(f, **parameters).step, states, key_run, num_steps)

    return _jitted(loop)


def numpyro_nuts(num_warmup=500, num_steps=200):
    import jax
    import numpyro
    from numpyro.infer import MCMC, NUTS

    numpyro.set_host_device_count(1)
    f = log_density()
    mcmc = MCMC(
        NUTS(potential_fn=lambda x: -f(x), dense_mass=True),
        num_warmup=num_warmup,
        num_samples=num_steps,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )

    def once(seed):
        key, key_start = jax.random.split(jax.random.key(seed))
        mcmc.run(key, init_params=_starts(key_start))
        return np.asarray(mcmc.get_samples(group_by_chain=True))

    return once


def tfp_snaper(num_warmup=1_000, num_steps=1_000):
    import jax.numpy as jnp
    from tensorflow_probability.substrates import jax as tfp

    f = log_density()

    def loop(key):
        result = tfp.experimental.mcmc.sample_snaper_hmc(
            lambda x: jnp.vectorize(f, signature="(n)->()")(x),
            num_steps,
            num_burnin_steps=num_warmup,
            num_chains=CHAINS,
            event_space_bijector=tfp.bijectors.Identity(),
            event_dtype=jnp.float32,
            event_shape=(DIM,),
            seed=key,
        )
        return result.trace[0]

    return _jitted(loop)
