"""What does the choice of random key cost inside the kernels that random bits bind?"""

from benchmarks._timing import Contender, Options, Report, race, ratio

KEYS = {"energax": None, "philox2x32": "philox2x32", "JAX default": "threefry2x32"}
KERNELS = {
    "RBM Gibbs 784-500, 100 chains": ("rbm", 100),
    "random walk 100-d, 1,000 chains": ("walk", 200),
    "Ising 64×64 heat bath, 32 chains": ("ising", 50),
}


def run(options: Options) -> Report:
    contenders = [
        Contender(
            f"{title}, {name}",
            "benchmarks.random_kernels:kernel",
            {"kind": kind, "steps": steps, "implementation": implementation},
        )
        for title, (kind, steps) in KERNELS.items()
        for name, implementation in KEYS.items()
    ]
    timings = race(contenders, options.rounds(9), threads=1)
    ratios = []
    for title in KERNELS:
        ours = f"{title}, energax"
        ratios.append(ratio(timings, f"{title}, philox2x32", ours, at_least=1.0, clock="cpu"))
        ratios.append(ratio(timings, f"{title}, JAX default", ours, at_least=1.3, clock="cpu"))
    return Report(
        name="random_kernels",
        question="The kernels that random bits bind, by the key they are run with, one thread.",
        timings=timings,
        ratios=ratios,
        notes=[
            "The random walk draws its normals by energax.random.normal: two of a block with "
            "energax's key, by jax.random.normal with any other."
        ],
    )


def kernel(kind: str, steps: int, implementation: str | None):
    import jax
    import jax.numpy as jnp
    import numpy as np

    import energax as ex
    from energax import energies, samplers
    from energax.samplers._base import run as loop

    rng = np.random.default_rng(0)
    if kind == "rbm":
        weight = rng.normal(0, 0.05, (784, 500))
        energy = energies.BernoulliRBM(weight, rng.normal(0, 0.3, 784), rng.normal(0, 0.3, 500))
        sampler, x = samplers.BlockGibbs(), jnp.zeros((100, 784))
    elif kind == "walk":
        energy = ex.from_log_density(lambda x: -0.5 * jnp.sum((x - 0.3) ** 2), ex.Real((100,)))
        sampler, x = samplers.Metropolis(0.2), jnp.zeros((1_000, 100))
    else:
        energy = energies.Ising.grid((64, 64), 0.44)
        sampler, x = samplers.ColouredGibbs(), jnp.ones((32, 64, 64))
    key = ex.random.key(0) if implementation is None else jax.random.key(0, impl=implementation)
    state, tuning = sampler.init(energy, x, key=key)
    return lambda: jax.block_until_ready(
        loop(sampler, energy, state, tuning, key=key, num_steps=steps, keep=False)
    )
