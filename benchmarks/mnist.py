"""How good do Boltzmann machines of MNIST get within an hour of one core?

An RBM and a deep Boltzmann machine of the binarised digits (Larochelle's split) by likelihood, and
an RBM's features of the grey digits by the error of a logistic regression on them. Steps, rates and
penalties were chosen on the validation rows. The data come by `--data DIR` and are named where
absent.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._data import BINARISED_MNIST, binarised_mnist
from benchmarks._timing import Options, Report, Timing, clock, isolated, say

HIDDEN, DEEP, FEATURES = 500, (500, 1000), 1000
MINUTES = {"rbm": 20.0, "dbm": 30.0, "features": 10.0}  # of training; log Z comes after
BATCH, CHAINS, AVERAGE = 100, 100, 0.9995
GREY = "mnist.npz"
JOBS = {
    # name: (file, what is measured, to reach, published)
    "rbm": (BINARISED_MNIST, "test log-likelihood, nats", -84.5, "RBM, CD-25: -86.34"),
    "dbm": (BINARISED_MNIST, "bound on the test log-likelihood, nats", -84.0, "DBM: -84.62"),
    "features": (GREY, "test error, %", 2.5, "logistic regression on pixels: about 7.5"),
}


def run(options: Options) -> Report:
    timings, limits, notes = [], [], []
    if options.data is None:
        notes.append("No data: give the folder by --data DIR.")
    for name, (file, what, goal, published) in JOBS.items() if options.data else ():
        if not (options.data / file).exists():
            notes.append(f"{file} is not in {options.data}: {name} left out.")
            continue
        minutes = 0.5 if options.quick else MINUTES[name]
        arguments = {"folder": str(options.data.resolve()), "minutes": minutes}
        found = isolated(f"benchmarks.mnist:{name}", arguments, options.threads)
        wall, cpu = found["training"]
        timings.append(Timing(f"{name}, training", 0.0, [wall], [cpu], found["peak"]))
        line = (
            f"{name}: OURS {found['value']:.2f} [{found['lower']:.2f}, {found['upper']:.2f}] "
            f"{what}; published: {published}; to reach {goal:g}; {wall / 60:.1f} minutes of "
            f"training; {found['text']}"
        )
        say(line)
        notes.append(line)
        short = found["value"] - goal if name == "features" else goal - found["value"]
        if found["reliable"]:
            limits.append((f"{name}: short of {goal:g}", max(0.0, short), 0.0))
        else:  # a number that may be anything reaches nothing
            limits.append((f"{name}: figures that can't be trusted", 1.0, 0.0))
    return Report(
        name="mnist",
        question=f"Boltzmann machines of MNIST: an RBM of {HIDDEN} hidden units, a DBM of "
        f"{DEEP[0]} and {DEEP[1]}, and {FEATURES} features, after "
        f"{', '.join(f'{m:g}' for m in MINUTES.values())} minutes of training.",
        timings=timings,
        ratios=[],
        limits=limits,
        notes=notes,
    )


def rbm(folder: str, minutes: float) -> dict:
    """Persistent chains in centred parameters; averaged weights; log Z by annealing both ways."""
    import energax as ex

    rows, test = binarised_mnist(folder)
    start = ex.energies.BernoulliRBM.random(784, HIDDEN, key=ex.random.key(0), data=rows)
    centred = ex.energies.CentredRBM.of(start, rows)
    objective = ex.objectives.PersistentCD(num_chains=CHAINS)
    fit, spent = _train(centred, rows, objective, minutes, learning_rate=0.1, l2=7e-4)
    energy = fit.energy.plain
    z = ex.log_z(energy, key=ex.random.key(1))
    score = ex.score_samples(energy, test, key=ex.random.key(1), log_z=z).mean()
    return _likelihood(score, z, fit, spent)


def dbm(folder: str, minutes: float) -> dict:
    """Layer by layer for a quarter of the time, then all of it by mean-field PCD, centred."""
    import energax as ex

    rows, test = binarised_mnist(folder)
    spent = clock()
    energy = ex.pretrain(
        rows,
        DEEP,
        key=ex.random.key(0),
        num_epochs=100,
        batch_size=BATCH,
        learning_rate=1e-3,
        max_seconds=60 * minutes / 8,
    )
    begun = spent()
    objective = ex.objectives.MeanFieldPCD(num_steps=1, num_chains=CHAINS, num_updates=5)
    left = minutes - begun[0] / 60
    centred = ex.energies.CentredDBM.of(energy, rows)
    fit, rest = _train(centred, rows, objective, left, learning_rate=0.05, l2=2e-4)
    energy = fit.energy.plain
    z = ex.log_z(energy, key=ex.random.key(1))
    bound = ex.variational_bound(energy, test, key=ex.random.key(1), log_z=z).mean()
    return _likelihood(bound, z, fit, (begun[0] + rest[0], begun[1] + rest[1]))


def features(folder: str, minutes: float) -> dict:
    """Hidden means of an RBM of grey digits, as bits drawn anew, and a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    import energax as ex

    with np.load(Path(folder) / GREY) as saved:
        data = {name: saved[name] for name in saved.files}
    train, test = (data[f"x_{part}"].reshape(-1, 784) / 255.0 for part in ("train", "test"))
    bits = (np.random.default_rng(0).random(train.shape) < train).astype(np.float32)
    start = ex.energies.BernoulliRBM.random(784, FEATURES, key=ex.random.key(0), data=bits)
    centred = ex.energies.CentredRBM.of(start, bits)
    objective = ex.objectives.PersistentCD(num_chains=CHAINS)
    fit, spent = _train(centred, bits, objective, minutes, learning_rate=0.1, l2=2e-4)
    energy = fit.energy.plain
    error = {}
    for name, of in (("features", lambda x: np.asarray(energy.hidden_mean(x))), ("pixels", None)):
        seen, asked = (x if of is None else of(x.astype(np.float32)) for x in (train, test))
        learner = LogisticRegression(C=0.1 if of is None else 0.01, max_iter=200)
        learner.fit(seen, data["y_train"])
        error[name] = 100 * float(np.mean(learner.predict(asked) != data["y_test"]))
    share = error["features"] / 100
    margin = 196 * np.sqrt(share * (1 - share) / len(test))
    return {
        "training": spent,
        "value": error["features"],
        "reliable": True,
        "lower": error["features"] - margin,
        "upper": error["features"] + margin,
        "text": f"raw pixels {error['pixels']:.2f} %; {fit.num_steps:,} steps; a logistic "
        "regression for each, C = 0.01 and 0.1",
    }


def _train(
    energy: Any,
    rows: np.ndarray,
    objective: Any,
    minutes: float,
    learning_rate: float,
    l2: float,
) -> tuple[Any, tuple[float, float]]:
    """A fit of as many steps as `minutes` take, and its (wall, CPU) seconds.

    Plain gradient steps whose rate falls to zero (Younes 1999): Adam at one rate keeps the weights
    moving faster than chains follow, and they ran away after 200,000 steps. Weights without a
    penalty grow until 100 chains no longer stand for the model: log Z, found by chains that cross,
    then says that most of its mass is where those of the training never were.
    """
    import optax

    import energax as ex

    objective = ex.objectives.Penalised(objective, l2=l2)

    def fitted(num_steps: int, seed: int, **options) -> Any:
        rate = optax.linear_schedule(learning_rate, 0.0, num_steps)
        options |= {"optimizer": optax.sgd(rate), "batch_size": BATCH, "average": AVERAGE}
        return ex.fit(
            energy, rows, objective, key=ex.random.key(seed), num_steps=num_steps, **options
        )

    warnings.simplefilter("ignore")
    spent = clock()
    tried, again = fitted(50, 2), fitted(250, 2)
    each = max((again.seconds - tried.seconds) / 200, again.seconds / 1000)
    left = 60 * minutes - spent()[0]
    fit = fitted(max(100, int(0.95 * left / each)), 0, max_seconds=max(left, 1.0))
    return fit, spent()


def _likelihood(score: Any, z: Any, fit: Any, spent: tuple[float, float]) -> dict:
    return {
        "training": spent,
        "value": float(score.value),
        "reliable": bool(score.reliable),
        "lower": float(score.lower),
        "upper": float(score.upper),
        "text": f"log Z {z.value:.2f} ± {z.std_err:.2f} by {z.method}, "
        f"{'reliable' if score.reliable else f'UNRELIABLE: {z.reasons}'}; {fit.num_steps:,} steps"
        + (", cut short by the clock" if fit.time_limited else "")
        + "".join(f"; the training: {reason}" for reason in fit.reasons),
    }
