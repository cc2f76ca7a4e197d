"""How does unadjusted Langevin stand to the PyTorch peers' own loops, with many chains and few?"""

from benchmarks import _mlp
from benchmarks._timing import Contender, Options, Report, race, ratio

STEPS, STEP_SIZE = 1_000, 1e-2  # x' = x − ε ∇E + √(2ε) z; energax counts 2ε
TARGETS = {1_000: 2.0, 10: 10.0}


def run(options: Options) -> Report:
    here = "benchmarks.langevin_mlp"
    timings, ratios = [], []
    for chains, target in TARGETS.items():
        names = [f"{who}, {chains:,} chains" for who in ("energax", "ebmkit", "torchebm")]
        raced = race(
            [Contender(name, f"{here}:{name.split(',')[0]}", {"chains": chains}) for name in names],
            options.rounds(7),
            options.threads,
        )
        timings += raced
        ratios += [ratio(raced, peer, names[0], at_least=target) for peer in names[1:]]
    return Report(
        name="langevin_mlp",
        question=f"Unadjusted Langevin, {STEPS:,} steps on an MLP energy (2-128-128-1, SiLU), "
        "beside ebmkit's and torchebm's own loops.",
        timings=timings,
        ratios=ratios,
        notes=[
            "energax keeps every step's x and log-density; ebmkit and torchebm return the last x."
        ],
    )


def energax(chains: int):
    import jax

    from energax import random
    from energax.samplers import ULA
    from energax.samplers._base import run

    energy, sampler = _mlp.energax_energy(), ULA(2 * STEP_SIZE)
    key = random.key(0)
    state, tuning = sampler.init(energy, jax.numpy.asarray(_mlp.starts(chains)), key=key)
    return lambda: jax.block_until_ready(
        run(sampler, energy, state, tuning, key=key, num_steps=STEPS)
    )


def ebmkit(chains: int):
    import ebm
    import torch

    energy = _mlp.torch_energy()
    sampler = ebm.LangevinDynamics(step_size=STEP_SIZE, steps=STEPS)
    start = torch.from_numpy(_mlp.starts(chains))
    return lambda: sampler.sample(energy, start)


def torchebm(chains: int):
    import torch
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Energy(BaseModel):
        def __init__(self):
            super().__init__()
            # Its sampler doesn't freeze the weights; their gradients would be wasted work.
            self.net = _mlp.torch_energy().net.requires_grad_(False)

        def forward(self, x):
            return self.net(x).squeeze(-1)

    sampler = LangevinDynamics(Energy(), step_size=STEP_SIZE, noise_scale=1.0)
    start = torch.from_numpy(_mlp.starts(chains))
    return lambda: sampler.sample(x=start, n_steps=STEPS)
