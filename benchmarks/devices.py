"""What do eight CPU devices on this machine's cores cost against one?"""

import os

from benchmarks._timing import Contender, Options, Report, race, ratio

DEVICES = 8
AT_MOST = 1.25
JOBS = {"AIS of an RBM": "annealing", "PCD of an MLP": "training"}


def run(options: Options) -> Report:
    timings, ratios = [], []
    for name, job in JOBS.items():
        one, many = (f"{name}, {count} device(s)" for count in (1, DEVICES))
        raced = race(
            [
                Contender(one, f"benchmarks.devices:{job}", {"devices": 1}),
                Contender(many, f"benchmarks.devices:{job}", {"devices": DEVICES}),
            ],
            options.rounds(7),
            options.threads,
        )
        timings += raced
        ratios.append(ratio(raced, many, one, at_most=AT_MOST))
    return Report(
        name="devices",
        question=f"{DEVICES} CPU devices on {os.cpu_count()} cores beside one: annealed importance "
        "sampling of an RBM (784-500, 800 chains, 96 temperatures), and 50 steps of PCD-10 with "
        "MALA on an MLP (2-128-128-1) with 2,048 rows and as many chains.",
        timings=timings,
        ratios=ratios,
        notes=["Devices that share cores can save nothing; this is what sharing out costs."],
    )


def _start(devices: int):
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax

    import energax  # noqa: F401  (it has a word with XLA before JAX starts)

    assert len(jax.devices()) == devices


def annealing(devices: int):
    _start(devices)
    import numpy as np

    from energax import random
    from energax.energies import BernoulliRBM
    from energax.energies.reference import default_base
    from energax.partition.estimated.annealed import forward_log_weights
    from energax.samplers.choose import default_sampler

    rng = np.random.default_rng(0)
    energy = BernoulliRBM(
        rng.normal(0, 0.05, (784, 500)), rng.normal(-1, 0.5, 784), rng.normal(-0.5, 0.3, 500)
    )
    path = energy.path(default_base(energy.space))
    sampler = default_sampler(path.at(0.5))
    return lambda: forward_log_weights(
        path, sampler, num_chains=800, num_steps=96, key=random.key(0)
    )


def training(devices: int):
    _start(devices)
    import warnings

    import numpy as np

    import energax as ex
    from energax import energies, objectives, random, samplers

    warnings.simplefilter("ignore", ex.UnreliableResult)
    rows = np.random.default_rng(0).normal(size=(8_192, 2)) @ [[1.0, 0.4], [0.0, 0.7]] + [2.0, -1.0]
    space = ex.Real((2,))
    start = energies.MLP(space, 128, key=random.key(1), base=energies.fitted_base(space, rows))
    objective = objectives.PersistentCD(10, 2_048, samplers.MALA())
    return lambda: ex.fit(start, rows, objective, key=random.key(2), num_steps=50, batch_size=2_048)
