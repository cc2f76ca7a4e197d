"""How long is an epoch of persistent contrastive divergence for an RBM?"""

from pathlib import Path

import numpy as np

from benchmarks._timing import Contender, Options, Report, race, ratio

ROWS, VISIBLE, HIDDEN, BATCH, LEARNING_RATE = 60_000, 784, 500, 100, 0.01
EPOCHS = 2  # of a run, so that what is done once, such as checks of the data, weighs little


def run(options: Options) -> Report:
    here = "benchmarks.rbm_epoch"
    arguments = {"folder": None if options.data is None else str(options.data.resolve())}
    contenders = [
        Contender("energax", f"{here}:energax", arguments),
        Contender("scikit-learn", f"{here}:scikit_learn", arguments),
        Contender("rbms", f"{here}:rbms", arguments),
        Contender("energax with Adam", f"{here}:energax", arguments | {"adam": True}),
    ]
    timings = race(contenders, options.rounds(5), options.threads)
    real = _mnist(options.data) is not None
    return Report(
        name="rbm_epoch",
        question=f"{EPOCHS} epochs of PCD-1, a Bernoulli RBM {VISIBLE}-{HIDDEN}, minibatches of "
        f"{BATCH} and as many chains, {ROWS:,} rows, float32.",
        timings=timings,
        ratios=[
            ratio(timings, "scikit-learn", "energax", at_least=2.0),
            ratio(timings, "rbms", "energax", at_least=1.0),
            ratio(timings, "scikit-learn", "energax with Adam"),
            ratio(timings, "rbms", "energax with Adam"),
        ],
        notes=[
            "Rows: MNIST, pixels over 127 are 1."
            if real
            else "Rows: synthetic, ten prototypes with noise; `--data DIR` takes DIR/mnist.npz.",
            "Plain gradient steps in all but the last row, which has energax's default optimiser.",
            "energax runs its whole `fit`, history and checks for NaN included; rbms runs its "
            "update in a bare loop: its own `train` also rewrites a file after every minibatch.",
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


def energax(folder: str | None, adam: bool = False):
    import optax

    from energax import random
    from energax.energies import BernoulliRBM
    from energax.objectives import PersistentCD
    from energax.training import fit

    data, key = rows(folder), random.key(0)
    energy = BernoulliRBM.random(VISIBLE, HIDDEN, key=key, data=data)
    objective = PersistentCD(num_steps=1, num_chains=BATCH)
    optimizer = None if adam else optax.sgd(LEARNING_RATE)

    options = {"optimizer": optimizer, "num_epochs": EPOCHS, "batch_size": BATCH}

    def train():
        run = fit(energy, data, objective, key=key, **options)
        run.energy.weight.block_until_ready()

    return train


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
