"""Does Metropolis cost more than the energy it evaluates, and how does it stand to BlackJAX?"""

from benchmarks import _mlp
from benchmarks._timing import Contender, Options, Report, race, ratio

CHAINS, STEPS, SCALE = 1_000, 1_000, 0.5


def run(options: Options) -> Report:
    here = "benchmarks.metropolis_mlp"
    contenders = [
        Contender("energax", f"{here}:energax"),
        Contender("the MLP alone", f"{here}:mlp_alone"),
        Contender("BlackJAX", f"{here}:blackjax"),
        Contender("BlackJAX with energax's key", f"{here}:blackjax", {"own_key": True}),
    ]
    timings = race(contenders, options.rounds(9), options.threads)
    return Report(
        name="metropolis_mlp",
        question=f"Metropolis, {CHAINS:,} chains × {STEPS:,} steps on an MLP energy (2-128-128-1, "
        "SiLU), beside as many bare evaluations of the MLP and BlackJAX's random walk.",
        timings=timings,
        ratios=[
            ratio(timings, "energax", "the MLP alone", at_most=1.25),
            ratio(timings, "BlackJAX", "energax", at_least=1.0),
            ratio(timings, "BlackJAX with energax's key", "energax"),
        ],
        notes=[
            "The MLP alone is written for batches by hand, one after the other: each input hangs "
            "on the output before it. energax and BlackJAX keep every step's x and log-density.",
        ],
    )


def energax():
    import jax

    from energax import random
    from energax.samplers import Metropolis
    from energax.samplers._base import run

    energy, sampler = _mlp.energax_energy(), Metropolis(SCALE)
    key = random.key(0)
    state, tuning = sampler.init(energy, jax.numpy.asarray(_mlp.starts(CHAINS)), key=key)
    return lambda: jax.block_until_ready(
        run(sampler, energy, state, tuning, key=key, num_steps=STEPS)
    )


def mlp_alone():
    import jax
    import jax.numpy as jnp

    energy = _mlp.jax_energy()
    start = jnp.asarray(_mlp.starts(CHAINS))

    def evaluate(x, _):
        value = energy(x)
        return x + 1e-6 * value[:, None], value

    loop = jax.jit(lambda x: jax.lax.scan(evaluate, x, None, length=STEPS))
    return lambda: jax.block_until_ready(loop(start))


def blackjax(own_key: bool = False):
    import blackjax
    import jax
    import jax.numpy as jnp

    energy = _mlp.jax_energy()
    propose = blackjax.mcmc.random_walk.normal(jnp.full(2, SCALE))
    walk = blackjax.additive_step_random_walk(lambda x: -energy(x), propose)
    key = jax.random.key(0, impl="philox2x32" if own_key else None)

    @jax.jit
    def loop(key, x):
        def step(state, step_key):
            state, info = jax.vmap(walk.step)(jax.random.split(step_key, CHAINS), state)
            return state, (state, info.acceptance_rate)

        return jax.lax.scan(step, jax.vmap(walk.init)(x), jax.random.split(key, STEPS))

    start = jnp.asarray(_mlp.starts(CHAINS))
    return lambda: jax.block_until_ready(loop(key, start))
