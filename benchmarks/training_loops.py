"""How long is a training step, and a whole training, beside the PyTorch peers' own loops?

Two moons by persistent CD and by denoising score matching, the peers' own README examples from a
fresh process on, and a convolutional net on images of MNIST's size beside the same in eager torch.
"""

import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks import _mlp
from benchmarks._timing import Contender, Options, Ratio, Report, Timing, isolated, race, ratio

HERE = "benchmarks.training_loops"
ROWS, BATCHES, RATE, SIGMA = 8_192, (64, 256), 1e-3, 0.1
LANGEVIN, STEP = 60, 1e-2  # x' = x − ε ∇E + √(2ε) z; energax counts 2ε
STOCK, RESTART = 8_192, 0.05  # points of the replay buffer, and the share of them that start anew
UPDATES = {"PCD": 50, "DSM": 3_000}  # of one repetition
EXAMPLES = {"ebmkit": 1_300, "torchebm": 1_000}  # updates; torchebm's README has as many
EBMKIT_ASKS = 3_000  # in its README, of which the last half are spent running away
SIDE, CHANNELS, IMAGES, IMAGE_BATCH = 28, (32, 64, 64), 2_048, 64
IMAGE_LANGEVIN, IMAGE_STEP, IMAGE_UPDATES, IMAGE_RATE = 20, 1e-4, 10, 1e-4
PEERS = ("ebmkit", "torchebm")


def run(options: Options) -> Report:
    less = 10 if options.quick else 1
    timings, ratios, told = [], [], []
    for objective, all_updates in UPDATES.items():
        for batch in BATCHES:
            updates = all_updates // less
            name = f"{objective}, {batch} rows, "
            arguments = {"objective": objective, "batch": batch, "updates": updates}
            contenders = [
                Contender(name + who, f"{HERE}:{who}", arguments) for who in ("energax", *PEERS)
            ]
            half = Contender(
                name.replace(str(batch), str(batch // 2)) + "energax",
                f"{HERE}:energax",
                arguments | {"batch": batch // 2},
            )
            contenders += [half] if objective == "DSM" else []
            raced = race(contenders, options.rounds(7), options.threads)
            timings += raced
            ratios += [ratio(raced, name + peer, name + "energax", at_least=4.0) for peer in PEERS]
            if objective == "DSM":  # as many noisy points
                ratios += [ratio(raced, name + peer, half.name) for peer in PEERS]
            told.append(f"{objective}, {batch} rows: {_of_a_step(raced, updates)}")
    for peer in PEERS:
        raced, of_it = examples(peer, EXAMPLES[peer] // less, options)
        timings += raced
        ratios += of_it
    away = isolated(f"{HERE}:running_away", {"steps": EBMKIT_ASKS // less}, options.threads)
    folder = None if options.data is None else str(options.data.resolve())
    images = {"folder": folder, "updates": max(2, IMAGE_UPDATES // less)}
    names = ["images, energax", "images, torch, NCHW", "images, torch, channels last"]
    raced = race(
        [
            Contender(names[0], f"{HERE}:images_energax", images),
            Contender(names[1], f"{HERE}:images_torch", images | {"channels_last": False}),
            Contender(names[2], f"{HERE}:images_torch", images | {"channels_last": True}),
        ],
        options.rounds(5),
        options.threads,
    )
    timings += raced
    ratios += [ratio(raced, name, names[0], at_least=1.0) for name in names[1:]]
    told.append(f"images: {_of_a_step(raced, images['updates'])}")
    real = _mnist(options.data) is not None
    return Report(
        name="training_loops",
        question=f"Training steps on two moons ({ROWS:,} rows, 2-128-128-1, SiLU, Adam): "
        f"{UPDATES['PCD']} of PCD with {LANGEVIN} Langevin steps, {UPDATES['DSM']:,} of denoising "
        "score matching; the peers' README examples whole; and "
        f"{IMAGE_UPDATES} of PCD with {IMAGE_LANGEVIN} Langevin steps on {IMAGE_BATCH} images "
        f"{SIDE}×{SIDE}, a net of {'-'.join(map(str, CHANNELS))} channels.",
        timings=timings,
        ratios=ratios,
        notes=[
            *(f"Wall ms a step, medians, {line}." for line in told),
            "energax runs its whole `fit`, history and checks for trouble included; ebmkit its "
            "`Trainer`, torchebm, whose trainer wants a DataLoader, the bare loop of its README.",
            f"PCD is what both call it: a replay buffer of {STOCK:,} points; of those moved "
            f"{RESTART:.0%} start anew. torchebm's fills its buffer in the first call, apart.",
            "Denoising score matching: energax takes each noise with both signs, so that of as "
            "many rows it makes twice the noisy points of the peers; of half the rows, as many.",
            "README examples: the process of each from its start, imports and compiling "
            "included (no compile cache), in the rows `whole`; without the imports in the others. "
            f"ebmkit's: {EXAMPLES['ebmkit']:,} updates of PCD with 60 Langevin steps, 256 rows, "
            "and 2,000 chains of 500 steps. torchebm's: CD-10, "
            f"{EXAMPLES['torchebm']:,} updates, 256 rows, one hidden layer of 128; its other "
            "examples leave out their networks."
            + (" All with a tenth of the updates." if options.quick else ""),
            f"ebmkit's README asks for {EBMKIT_ASKS:,} updates. Those of ebmkit: {away['ebmkit']}. "
            f"Those of energax: {away['energax']}.",
            "Images: MNIST." if real else "Images: synthetic; `--data DIR` takes DIR/mnist.npz.",
        ],
    )


def _of_a_step(raced: list[Timing], updates: int) -> str:
    each = (f"{t.name.split(', ', 1)[1]} {1e3 * t.wall_median / updates:.3g}" for t in raced)
    return "; ".join(each)


# ---- two moons, a step -----------------------------------------------------------------------


def energax(objective: str, batch: int, updates: int):
    from energax import random
    from energax.objectives import DenoisingScoreMatching, ReplayCD
    from energax.samplers import ULA

    loss = DenoisingScoreMatching(SIGMA)
    if objective == "PCD":
        loss = ReplayCD(LANGEVIN, batch, STOCK, RESTART, _standard_normal(), ULA(2 * STEP))
    options = {"learning_rate": RATE, "num_steps": updates, "batch_size": batch}
    return _fitted(_mlp.energax_energy(), moons(), loss, random.key(0), options)


def _standard_normal():
    from energax import Real
    from energax.energies import Gaussian

    return Gaussian(Real((2,)))


def _fitted(energy, rows, loss, key, options):
    """A function that trains, and sees to it that no trouble made the training shorter."""
    import jax

    from energax.training import fit

    def train():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a few updates are no trained model
            run = fit(energy, rows, loss, key=key, **options)
        if run.num_steps != options["num_steps"]:
            raise RuntimeError(f"training ended at step {run.num_steps}: {run.reasons}")
        return jax.block_until_ready(run.energy)

    return train


def ebmkit(objective: str, batch: int, updates: int):
    import ebm
    import torch

    loss = ebm.DenoisingScoreMatching(SIGMA)
    if objective == "PCD":
        sampler = ebm.LangevinDynamics(step_size=STEP, steps=LANGEVIN)
        loss = ebm.ContrastiveDivergence(sampler, buffer=ebm.ReplayBuffer(STOCK, (2,), RESTART))
    trainer = ebm.Trainer(_mlp.torch_energy(), loss, lr=RATE)
    rows = torch.from_numpy(moons())
    return lambda: trainer.fit(rows, steps=updates, batch_size=batch, verbose=False)


def torchebm(objective: str, batch: int, updates: int):
    import torch
    from torchebm.losses import ContrastiveDivergence, DenoisingScoreMatching
    from torchebm.samplers import LangevinDynamics

    energy = _torchebm_energy(_mlp.torch_energy().net)
    loss = DenoisingScoreMatching(model=energy, noise_scale=SIGMA)
    if objective == "PCD":
        sampler = LangevinDynamics(model=energy, step_size=STEP, noise_scale=1.0)
        cd = ContrastiveDivergence(
            model=energy,
            sampler=sampler,
            k_steps=LANGEVIN,
            persistent=True,
            buffer_size=STOCK,
            new_sample_ratio=RESTART,
        )

        def loss(x):
            return cd(x)[0]

    rows = torch.from_numpy(moons())
    optimiser = torch.optim.Adam(energy.parameters(), lr=RATE)

    def train():
        for _ in range(updates):
            value = loss(rows[torch.randint(len(rows), (batch,))])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()

    return train


def _torchebm_energy(net):
    from torchebm.core import BaseModel

    class Energy(BaseModel):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).squeeze(-1)

    return Energy()


def moons() -> np.ndarray:
    """(ROWS, 2), float32: two half circles of radius 1, with noise of 0.1."""
    rng = np.random.default_rng(0)
    t, upper = np.pi * rng.random((ROWS, 1)), rng.random((ROWS, 1)) < 0.5
    lower = np.concatenate([1 - np.cos(t), 0.5 - np.sin(t)], 1)
    centres = np.where(upper, np.concatenate([np.cos(t), np.sin(t)], 1), lower)
    return (centres + 0.1 * rng.normal(size=centres.shape)).astype(np.float32)


# ---- the READMEs' examples -------------------------------------------------------------------


def examples(peer: str, steps: int, options: Options) -> tuple[list[Timing], list[Ratio]]:
    """The peer's example and the same by energax by turns, each in a process of its own."""
    names = [f"README of {peer}, {who}" for who in (peer, "energax")]
    apart = [Timing(name, 0.0, [], [], 0.0) for name in names]
    whole = [Timing(f"{name}, whole", 0.0, [], [], 0.0) for name in names]
    for _ in range(options.rounds(3)):
        for name, own, all_ in zip(names, apart, whole, strict=True):
            began = time.perf_counter()
            function = f"{HERE}:example_{peer}" + ("_by_energax" if "energax" in name else "")
            found = isolated(function, {"steps": steps}, options.threads)
            own.wall.append(found["wall"])
            own.cpu.append(found["cpu"])
            all_.wall.append(time.perf_counter() - began)
            all_.cpu.append(found["cpu of all"])
            own.peak_mib = all_.peak_mib = max(own.peak_mib, found["peak"])
    ratios = [ratio(pair, pair[0].name, pair[1].name, at_least=1.0) for pair in (apart, whole)]
    return [*apart, *whole], ratios


def _timed(job) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    wall, all_cpu = time.perf_counter() - wall, time.process_time()
    return {"wall": wall, "cpu": all_cpu - cpu, "cpu of all": all_cpu}


def example_ebmkit(steps: int) -> dict[str, float]:
    import ebm
    import torch

    def job():
        energy = ebm.nets.MLPEnergy(dim=2, hidden=(128, 128))
        sampler = ebm.LangevinDynamics(step_size=1e-2, steps=60)
        loss_fn = ebm.ContrastiveDivergence(sampler, buffer=ebm.ReplayBuffer(8192, (2,)))
        trainer = ebm.Trainer(energy, loss_fn, lr=1e-3)
        rows = ebm.datasets.two_moons(8192)
        trainer.fit(rows, steps=steps, batch_size=256, verbose=False)
        sampler.sample(energy, torch.randn(2000, 2), steps=500)

    return _timed(job)


def example_ebmkit_by_energax(steps: int) -> dict[str, float]:
    import jax

    import energax as ex
    from energax.samplers import ULA

    def job():
        trained = _fitted(*_ebmkit_by_energax(steps))()
        noise = jax.random.normal(ex.random.key(2), (2000, 2))
        chains = {"num_chains": 2000, "initial": noise, "num_warmup": 480, "num_steps": 20}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unadjusted, and whatever the chains have come to
            ex.sample(trained, 2000, key=ex.random.key(3), sampler=ULA(2e-2), **chains)

    return _timed(job)


def _ebmkit_by_energax(steps: int) -> tuple:
    """What `fit` is given for ebmkit's example, its options last."""
    import energax as ex
    from energax.objectives import ReplayCD
    from energax.samplers import ULA

    energy = ex.energies.MLP(ex.Real((2,)), 128, 2, key=ex.random.key(0), base=None)
    objective = ReplayCD(60, 256, 8192, sampler=ULA(2e-2), base=_standard_normal())
    options = {"learning_rate": 1e-3, "num_steps": steps, "batch_size": 256}
    return energy, moons(), objective, ex.random.key(1), options


def running_away(steps: int) -> dict[str, str]:
    """What becomes of ebmkit's example in as many updates as its README asks for."""
    import ebm
    import torch

    from energax.training import fit

    torch.manual_seed(0)
    sampler = ebm.LangevinDynamics(step_size=1e-2, steps=60)
    loss_fn = ebm.ContrastiveDivergence(sampler, buffer=ebm.ReplayBuffer(8192, (2,)))
    forward, gaps = loss_fn.forward, []

    def told(energy, x):
        out = forward(energy, x)
        gaps.append(abs(out.metrics["energy_gap"]))
        return out

    loss_fn.forward = told
    trainer = ebm.Trainer(ebm.nets.MLPEnergy(dim=2, hidden=(128, 128)), loss_fn, lr=1e-3)
    rows = ebm.datasets.two_moons(8192)
    with warnings.catch_warnings(record=True) as caught:
        trainer.fit(rows, steps=steps, batch_size=256, verbose=False)
    first = next((i for i, gap in enumerate(gaps) if gap > 100), None)
    peer = f"a gap of energies beyond 100 nats from update {first}, {max(gaps):.2g} at the most, "
    peer += f"and {len(caught)} warnings"
    energy, rows, objective, key, options = _ebmkit_by_energax(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = fit(energy, rows, objective, key=key, **options)
    ours = f"ended at {run.num_steps} of {steps}: {'; '.join(run.reasons) or 'nothing said'}"
    return {"ebmkit": peer if first is not None else "nothing unusual", "energax": ours}


def example_torchebm(steps: int) -> dict[str, float]:
    import torch
    from torch import nn
    from torchebm.datasets import TwoMoonsDataset
    from torchebm.losses import ContrastiveDivergence
    from torchebm.samplers import LangevinDynamics

    def job():
        net = nn.Sequential(nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 1))
        data = TwoMoonsDataset(n_samples=3000, noise=0.05).get_data()
        energy = _torchebm_energy(net)
        sampler = LangevinDynamics(model=energy, step_size=0.1, noise_scale=1.0)
        cd = ContrastiveDivergence(model=energy, sampler=sampler, k_steps=10)
        optimiser = torch.optim.Adam(energy.parameters(), lr=1e-3)
        for _ in range(steps):
            loss, _ = cd(data[torch.randint(len(data), (256,))])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return _timed(job)


def example_torchebm_by_energax(steps: int) -> dict[str, float]:
    import energax as ex
    from energax.objectives import ContrastiveDivergence
    from energax.samplers import ULA

    def job():
        energy = ex.energies.MLP(ex.Real((2,)), 128, 1, key=ex.random.key(0), base=None)
        objective = ContrastiveDivergence(10, ULA(0.2))
        options = {"learning_rate": 1e-3, "num_steps": steps, "batch_size": 256}
        _fitted(energy, moons()[:3000], objective, ex.random.key(1), options)()

    return _timed(job)


# ---- images ----------------------------------------------------------------------------------


def pictures(folder: str | None) -> np.ndarray:
    """(IMAGES, SIDE, SIDE), float32, pixels from 0 to 1."""
    found = _mnist(None if folder is None else Path(folder))
    if found is not None:
        return found
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    centre, radius = 10 + 8 * rng.random((2, IMAGES, 1, 1)), 4 + 4 * rng.random((IMAGES, 1, 1))
    rings = np.exp(-((np.hypot(x - centre[0], y - centre[1]) - radius) ** 2) / 2)
    return rings.astype(np.float32)


def _mnist(folder: Path | None) -> np.ndarray | None:
    if folder is None or not (folder / "mnist.npz").exists():
        return None
    with np.load(folder / "mnist.npz", allow_pickle=False) as file:
        return file["x_train"][:IMAGES].reshape(-1, SIDE, SIDE).astype(np.float32) / 255


def images_energax(folder: str | None, updates: int):
    from energax import Real, random
    from energax.energies import ConvNet
    from energax.objectives import ReplayCD
    from energax.samplers import ULA

    energy = ConvNet(Real((SIDE, SIDE)), CHANNELS, key=random.key(0), base=None)
    loss = ReplayCD(IMAGE_LANGEVIN, IMAGE_BATCH, IMAGES, RESTART, sampler=ULA(2 * IMAGE_STEP))
    options = {
        "learning_rate": IMAGE_RATE,
        "num_steps": updates,
        "batch_size": IMAGE_BATCH,
    }
    return _fitted(energy, pictures(folder), loss, random.key(1), options)


def images_torch(folder: str | None, updates: int, channels_last: bool):
    """The same net and the same loop by hand, weights frozen while chains move."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for num_in, num_out in zip((1, *CHANNELS), CHANNELS, strict=False):
        layers += [nn.AvgPool2d(2)] if layers else []
        layers += [nn.Conv2d(num_in, num_out, 3, padding=1), nn.SiLU()]
    net, readout = nn.Sequential(*layers), nn.Linear(CHANNELS[-1], 1, bias=False)
    form = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=form)
    parameters = [*net.parameters(), *readout.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=IMAGE_RATE)
    rows = torch.from_numpy(pictures(folder))[:, None].to(memory_format=form)
    mean, sd = rows.mean(0), rows.std(0) + 1e-3
    stock = mean + sd * torch.randn_like(rows)

    def energy(x):
        return readout(net(x).mean((2, 3))).squeeze(-1)

    def train():
        for _ in range(updates):
            data = rows[torch.randint(len(rows), (IMAGE_BATCH,))]
            places = torch.randint(len(stock), (IMAGE_BATCH,))
            x = stock[places]
            anew = torch.rand(IMAGE_BATCH) < RESTART
            x[anew] = mean + sd * torch.randn_like(x[anew])
            for parameter in parameters:
                parameter.requires_grad_(False)
            for _ in range(IMAGE_LANGEVIN):
                x.requires_grad_(True)
                (slope,) = torch.autograd.grad(energy(x).sum(), x)
                noise = torch.randn_like(x)
                x = x.detach() - IMAGE_STEP * slope + (2 * IMAGE_STEP) ** 0.5 * noise
            for parameter in parameters:
                parameter.requires_grad_(True)
            stock[places] = x
            optimiser.zero_grad()
            (energy(data).mean() - energy(x).mean()).backward()
            optimiser.step()

    return train
