"""How long is an epoch of contrastive divergence, persistent or not, for an RBM of MNIST's size?"""

from pathlib import Path

import numpy as np

from benchmarks._timing import Contender, Options, Report, race, ratio

ROWS, VISIBLE, HIDDEN, BATCH, LEARNING_RATE = 60_000, 784, 500, 100, 0.01
# of one repetition: of PCD-1 enough that what is done once, such as checks of the data, weighs
# little, of CD-25, whose minibatch takes ten times as long, a fifth
EPOCHS, FEWER = 2, 5
LONG = 25


def run(options: Options) -> Report:
    here = "benchmarks.rbm_epoch"
    data = {"folder": None if options.data is None else str(options.data.resolve())}
    contenders = [
        Contender("energax", f"{here}:energax", data),
        Contender("its products alone", f"{here}:products", {"steps": 1}),
        Contender("scikit-learn", f"{here}:scikit_learn", data),
        Contender("rbms", f"{here}:rbms", data),
        Contender("ebmkit", f"{here}:ebmkit", data),
        Contender("torch", f"{here}:torch_loop", data),
        Contender("energax with Adam", f"{here}:energax", data | {"adam": True}),
        Contender("energax, centred", f"{here}:energax", data | {"centred": True}),
        Contender(f"energax, CD-{LONG}", f"{here}:energax", data | {"steps": LONG}),
        Contender(f"its products alone, CD-{LONG}", f"{here}:products", {"steps": LONG}),
        Contender(f"torch, CD-{LONG}", f"{here}:torch_loop", data | {"steps": LONG}),
    ]
    timings = race(contenders, options.rounds(5), options.threads)
    real = _mnist(options.data) is not None
    most = {"at_most": 1.6, "clock": "cpu"}
    peer = {"at_least": 1.5, "clock": "cpu"}
    return Report(
        name="rbm_epoch",
        question=f"{EPOCHS} epochs of PCD-1, and a fifth of an epoch of CD-{LONG}, for a Bernoulli "
        f"RBM {VISIBLE}-{HIDDEN}: minibatches of {BATCH} and as many chains, {ROWS:,} rows, "
        "float32.",
        timings=timings,
        ratios=[
            ratio(timings, "energax", "its products alone", **most),
            ratio(timings, f"energax, CD-{LONG}", f"its products alone, CD-{LONG}", **most),
            ratio(timings, "scikit-learn", "energax", at_least=3.0, clock="cpu"),
            ratio(timings, "rbms", "energax", **peer),
            ratio(timings, "ebmkit", "energax", **peer),
            ratio(timings, "torch", "energax", **peer),
            ratio(timings, f"torch, CD-{LONG}", f"energax, CD-{LONG}", **peer),
            ratio(timings, "energax with Adam", "energax", clock="cpu"),
            ratio(timings, "energax, centred", "energax", clock="cpu"),
            ratio(timings, "scikit-learn", "its products alone", clock="cpu"),
        ],
        notes=[
            "Rows: MNIST, pixels over 127 are 1."
            if real
            else "Rows: synthetic, ten prototypes with noise; `--data DIR` takes DIR/mnist.npz.",
            "The products alone: of a minibatch vW for the data, hWᵀ and v'W for each step of the "
            "chains, and vᵀh and v'ᵀh' for the gradient, of the same sizes, each input hanging on "
            "an output before it.",
            "Plain gradient steps in all but one row, which has energax's default optimiser. "
            "Centred: in the parameters of `CentredRBM`, with an L2 penalty and averaged weights.",
            "energax runs its whole `fit`, history and checks for NaN included; rbms and ebmkit "
            "run their update in a bare loop (rbms's own `train` also rewrites a file after every "
            "minibatch); torch is the loop written by hand, without autograd. Of PCD-1 theirs make "
            "six products, as energax draws h from the product that the step before ended with.",
        ],
    )


def rows(folder: str | None) -> np.ndarray:
    """(ROWS, VISIBLE) float32 of 0 and 1."""
    found = _mnist(None if folder is None else Path(folder))
    if found is not None:
        return found
    rng = np.random.default_rng(0)
    prototypes = rng.random((10, VISIBLE)) < 0.2
    chosen = prototypes[rng.integers(10, size=ROWS)]
    return (chosen ^ (rng.random((ROWS, VISIBLE)) < 0.05)).astype(np.float32)


def _mnist(folder: Path | None) -> np.ndarray | None:
    if folder is None or not (folder / "mnist.npz").exists():
        return None
    with np.load(folder / "mnist.npz", allow_pickle=False) as file:
        return (file["x_train"].reshape(-1, VISIBLE) > 127).astype(np.float32)


def energax(folder: str | None, adam: bool = False, steps: int = 1, centred: bool = False):
    import optax

    from energax import random
    from energax.energies import BernoulliRBM, CentredRBM
    from energax.objectives import ContrastiveDivergence, Penalised, PersistentCD
    from energax.training import fit

    data, key = rows(folder), random.key(0)
    energy = BernoulliRBM.random(VISIBLE, HIDDEN, key=key, data=data)
    objective = PersistentCD(num_steps=1, num_chains=BATCH)
    if steps > 1:
        objective = ContrastiveDivergence(num_steps=steps)
    optimizer = None if adam else optax.sgd(LEARNING_RATE)
    options = {"optimizer": optimizer, "num_steps": _batches(steps), "batch_size": BATCH}
    if centred:
        energy, objective = CentredRBM.of(energy, data), Penalised(objective, l2=1e-3)
        options |= {"average": 0.999}

    def train():
        run = fit(energy, data, objective, key=key, **options)
        run.energy.weight.block_until_ready()

    return train


def products(steps: int):
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(0, 0.1, (VISIBLE, HIDDEN)), jnp.float32)
    v = jnp.asarray(rng.random((BATCH, VISIBLE)) < 0.2, jnp.float32)

    @jax.jit
    def loop(w, v):
        def step(_, v):  # 0.2 keeps the length: the largest singular value of w is about 5
            return 0.2 * ((0.2 * (v @ w)) @ w.T)

        def update(_, state):
            w, v = state
            hidden = v @ w
            chains = 0.2 * (
                0.2 * hidden @ w.T
            )  # the first step has its v'W from the minibatch before
            chains = jax.lax.fori_loop(0, steps - 1, step, chains)
            return w + 1e-6 * (v.T @ hidden) - 1e-6 * (chains.T @ (chains @ w)), chains

        return jax.lax.fori_loop(0, _batches(steps), update, (w, v))

    return lambda: jax.block_until_ready(loop(w, v))


def _batches(steps: int) -> int:
    return EPOCHS * ROWS // BATCH if steps == 1 else ROWS // BATCH // FEWER


def scikit_learn(folder: str | None):
    from sklearn.neural_network import BernoulliRBM

    data = rows(folder)
    model = BernoulliRBM(
        HIDDEN, learning_rate=LEARNING_RATE, batch_size=BATCH, n_iter=EPOCHS, random_state=0
    )
    return lambda: model.fit(data)


def rbms(folder: str | None):
    import torch
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.dataset.dataset_class import RBMDataset
    from rbms.training.pcd import fit_batch_pcd

    data = rows(folder)
    dataset = RBMDataset(
        data=data,
        labels=np.zeros(ROWS),
        weights=np.ones(ROWS),
        names=np.arange(ROWS),
        dataset_name="rows",
        is_binary=True,
        device="cpu",
    )
    cpu, single = torch.device("cpu"), torch.float32

    def train():
        params = BBRBM.init_parameters(HIDDEN, dataset, cpu, single)
        params.init_grad()
        optimiser = torch.optim.SGD(params.parameters(), lr=LEARNING_RATE, maximize=True)
        chains = params.init_chains(BATCH)
        with torch.no_grad():
            for _ in range(EPOCHS):
                for chosen in torch.randperm(ROWS).split(BATCH):
                    batch = dataset.data[chosen], dataset.weights[chosen]
                    optimiser.zero_grad(set_to_none=False)
                    chains, _ = fit_batch_pcd(batch, chains, params, gibbs_steps=1, beta=1.0)
                    optimiser.step()

    return train


def ebmkit(folder: str | None):
    import ebm
    import torch

    data = torch.from_numpy(rows(folder))
    model = ebm.nets.RBM(VISIBLE, HIDDEN)
    buffer = ebm.ReplayBuffer(BATCH, (VISIBLE,), reinit_prob=0.0)
    buffer.data = data[:BATCH].clone()
    loss = ebm.ContrastiveDivergence(ebm.samplers.GibbsSampler(1), buffer)
    optimiser = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def train():
        for _ in range(EPOCHS):
            for chosen in torch.randperm(ROWS).split(BATCH):
                optimiser.zero_grad()
                loss(model, data[chosen]).loss.backward()
                optimiser.step()

    return train


def torch_loop(folder: str | None, steps: int = 1):
    import torch

    data = torch.from_numpy(rows(folder))
    w = 0.01 * torch.randn(VISIBLE, HIDDEN)
    b, c = torch.zeros(VISIBLE), torch.zeros(HIDDEN)

    def train():
        chains, left = data[:BATCH].clone(), _batches(steps)
        with torch.no_grad():
            while left > 0:
                for chosen in torch.randperm(ROWS).split(BATCH)[:left]:
                    v = data[chosen]
                    h = torch.sigmoid(torch.addmm(c, v, w))
                    chains = v if steps > 1 else chains
                    seen = h if steps > 1 else torch.sigmoid(torch.addmm(c, chains, w))
                    for _ in range(steps):
                        chains = torch.bernoulli(
                            torch.sigmoid(torch.addmm(b, torch.bernoulli(seen), w.T))
                        )
                        seen = torch.sigmoid(torch.addmm(c, chains, w))
                    w.add_(v.T @ h - chains.T @ seen, alpha=LEARNING_RATE / BATCH)
                    b.add_(v.mean(0) - chains.mean(0), alpha=LEARNING_RATE)
                    c.add_(h.mean(0) - seen.mean(0), alpha=LEARNING_RATE)
                left -= ROWS // BATCH

    return train
