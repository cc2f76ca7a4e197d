"""Random-walk Metropolis where the energy is cheap: how fast are proposals and the loop itself?"""

from benchmarks._timing import Contender, Options, Report, race, ratio

CHAINS, STEPS, DIM, SCALE = 1_000, 200, 100, 0.2


def run(options: Options) -> Report:
    here = "benchmarks.random_walk_100d"
    contenders = [
        Contender("energax", f"{here}:energax"),
        Contender("BlackJAX", f"{here}:blackjax"),
        Contender("BlackJAX with energax's key", f"{here}:blackjax", {"own_key": True}),
        Contender("the normals alone", f"{here}:normals"),
    ]
    timings = race(contenders, options.rounds(9), options.threads)
    return Report(
        name="random_walk_100d",
        question=f"Random-walk Metropolis with normal proposals, {CHAINS:,} chains × {STEPS} steps "
        f"on N(0, 1) in {DIM} dimensions, every draw kept.",
        timings=timings,
        ratios=[
            ratio(timings, "BlackJAX", "energax", at_least=2.5, clock="cpu"),
            ratio(timings, "BlackJAX with energax's key", "energax"),
            ratio(timings, "energax", "the normals alone"),
        ],
        notes=["The normals alone: as many energax.random.normal, summed."],
    )


def _starts():
    import jax

    return jax.random.normal(jax.random.key(1), (CHAINS, DIM))


def energax():
    import jax
    import jax.numpy as jnp

    from energax import random
    from energax.energies import from_log_density
    from energax.samplers import Metropolis
    from energax.samplers._base import run
    from energax.spaces import Real

    energy = from_log_density(lambda x: -0.5 * jnp.sum(x**2), Real((DIM,)))
    sampler, key = Metropolis(SCALE), random.key(0)
    state, tuning = sampler.init(energy, _starts(), key=key)
    return lambda: jax.block_until_ready(
        run(sampler, energy, state, tuning, key=key, num_steps=STEPS)
    )


def blackjax(own_key: bool = False):
    import blackjax
    import jax
    import jax.numpy as jnp

    from energax import random

    propose = blackjax.mcmc.random_walk.normal(jnp.full(DIM, SCALE))
    walk = blackjax.additive_step_random_walk(lambda x: -0.5 * jnp.sum(x**2), propose)
    key = random.key(0) if own_key else jax.random.key(0)

    @jax.jit
    def loop(key, x):
        def step(state, step_key):
            state, info = jax.vmap(walk.step)(jax.random.split(step_key, CHAINS), state)
            return state, (state, info.acceptance_rate)

        return jax.lax.scan(step, jax.vmap(walk.init)(x), jax.random.split(key, STEPS))

    start = _starts()
    return lambda: jax.block_until_ready(loop(key, start))


def normals():
    import jax

    from energax import random

    @jax.jit
    def loop(key):
        def step(total, step_key):
            return total + random.normal(step_key, (CHAINS, DIM)), None

        total, _ = jax.lax.scan(step, _starts(), jax.random.split(key, STEPS))
        return total

    key = random.key(0)
    return lambda: jax.block_until_ready(loop(key))
