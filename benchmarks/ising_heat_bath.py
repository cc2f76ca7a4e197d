"""How many spins a second does coloured Gibbs redraw on a 2-d Ising model, beside thrml?"""

import numpy as np

from benchmarks._timing import Contender, Options, Report, race, ratio

SIDE, CHAINS, SWEEPS, COUPLING = 64, 32, 300, 0.44


def run(options: Options) -> Report:
    here = "benchmarks.ising_heat_bath"
    contenders = [
        Contender("energax", f"{here}:energax"),
        Contender("energax, JAX's key", f"{here}:energax", {"own_key": False}),
        Contender("energax, its two sets of random bits alone", f"{here}:bits"),
        Contender("thrml", f"{here}:thrml"),
        Contender("thrml with energax's key", f"{here}:thrml", {"own_key": True}),
    ]
    timings = race(contenders, options.rounds(7), options.threads)
    spins = SIDE**2 * CHAINS * SWEEPS
    rates = [f"{t.name} {spins / t.cpu_median:.3g}" for t in timings]
    return Report(
        name="ising_heat_bath",
        question=f"Heat bath on the periodic {SIDE}×{SIDE} Ising model at K = {COUPLING}, {CHAINS} "
        f"chains × {SWEEPS} sweeps.",
        timings=timings,
        ratios=[
            ratio(timings, "thrml", "energax", at_least=5.0, clock="cpu"),
            ratio(timings, "thrml with energax's key", "energax", clock="cpu"),
            ratio(timings, "energax, JAX's key", "energax", at_least=1.3, clock="cpu"),
            ratio(timings, "energax", "energax, its two sets of random bits alone", clock="cpu"),
        ],
        notes=[
            "Spin updates per CPU second: " + ", ".join(rates) + ".",
            "Every chain of either has its own random bits; energax also gives f(x) after each "
            "sweep.",
        ],
    )


def _key(own_key: bool):
    import jax

    from energax import random

    return random.key(0) if own_key else jax.random.key(0)


def energax(own_key: bool = True):
    import jax

    from energax.energies import Ising
    from energax.samplers import ColouredGibbs
    from energax.samplers._base import run

    energy, sampler = Ising.grid((SIDE, SIDE), COUPLING), ColouredGibbs()
    state, tuning = sampler.init(energy, _starts(), key=_key(own_key))
    return lambda: jax.block_until_ready(
        run(sampler, energy, state, tuning, key=_key(own_key), num_steps=SWEEPS, keep=False)
    )


def bits():
    import jax
    import jax.numpy as jnp

    shape = (2, SIDE**2 // 2, CHAINS)

    @jax.jit
    def loop(key, x):
        def step(x, step_key):
            keys = jax.random.split(step_key, 2)
            return x ^ jax.vmap(lambda k: jax.random.bits(k, shape[1:], jnp.uint32))(keys), None

        return jax.lax.scan(step, x, jax.random.split(key, SWEEPS))[0]

    return lambda: jax.block_until_ready(loop(_key(True), jnp.zeros(shape, jnp.uint32)))


def thrml(own_key: bool = False):
    import jax
    import jax.numpy as jnp
    from thrml import Block, SamplingSchedule, SpinNode, sample_states
    from thrml.models import IsingEBM, IsingSamplingProgram

    nodes = [[SpinNode() for _ in range(SIDE)] for _ in range(SIDE)]
    edges = []
    for i in range(SIDE):
        for j in range(SIDE):
            edges.append((nodes[i][j], nodes[(i + 1) % SIDE][j]))
            edges.append((nodes[i][j], nodes[i][(j + 1) % SIDE]))
    flat = [node for row in nodes for node in row]
    model = IsingEBM(
        flat,
        edges,
        jnp.zeros(len(flat)),
        jnp.full(len(edges), COUPLING),
        jnp.asarray(1.0),
    )
    even = [nodes[i][j] for i in range(SIDE) for j in range(SIDE) if (i + j) % 2 == 0]
    odd = [nodes[i][j] for i in range(SIDE) for j in range(SIDE) if (i + j) % 2 == 1]
    blocks = [Block(even), Block(odd)]
    program = IsingSamplingProgram(model, blocks, [])
    schedule = SamplingSchedule(n_warmup=SWEEPS, n_samples=1, steps_per_sample=0)
    start = [jnp.ones((CHAINS, len(even)), bool), jnp.ones((CHAINS, len(odd)), bool)]

    @jax.jit
    def loop(key, start):
        def one(key, start):
            return sample_states(key, program, schedule, start, [], [Block(flat)])

        return jax.vmap(one)(jax.random.split(key, CHAINS), start)

    magnetisation = np.mean(2.0 * np.asarray(loop(_key(own_key), start)[0]) - 1)
    assert abs(magnetisation) > 0.3, "after so few sweeps the chains are still magnetised"
    return lambda: jax.block_until_ready(loop(_key(own_key), start))


def _starts():
    import jax.numpy as jnp

    return jnp.ones((CHAINS, SIDE, SIDE))
