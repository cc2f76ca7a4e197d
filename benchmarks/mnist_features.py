"""How well do an RBM's features of MNIST tell its digits apart?

The error of a logistic regression on the hidden means of an RBM that never saw a label, beside one
on the pixels. The data come by `--data DIR` and are named where absent.
"""

from pathlib import Path

import numpy as np

from benchmarks._boltzmann import trained
from benchmarks._timing import Options, Report, Timing, isolated, say

FEATURES, MINUTES, WANTED = 1000, 5.0, 2.5
RARE = 0.05  # the share of rows in which a feature is to be on
FILE = "mnist.npz"


def run(options: Options) -> Report:
    timings, limits, notes = [], [], []
    if options.data is None or not (options.data / FILE).exists():
        notes.append(f"No data: give the folder that holds {FILE} by --data DIR.")
    else:
        minutes = 0.5 if options.quick else options.minutes or MINUTES
        arguments = {"folder": str(options.data.resolve()), "minutes": minutes}
        found = isolated("benchmarks.mnist_features:features", arguments, options.threads)
        wall, cpu = found["training"]
        timings.append(Timing("training", 0.0, [wall], [cpu], found["peak"]))
        limits.append(("test error, %", found["value"], WANTED))
        notes.append(f"After {wall / 60:.1f} minutes of training: {found['text']}")
        say(notes[-1])
    return Report(
        name="mnist_features",
        question=f"Test error of a logistic regression on {FEATURES} features that an RBM learned "
        "from MNIST without labels, and on its pixels.",
        timings=timings,
        ratios=[],
        limits=limits,
        notes=notes,
    )


def features(folder: str, minutes: float) -> dict:
    """Hidden means of a sparse RBM of grey digits, as bits drawn, and a logistic regression.

    Sparsity and C were chosen on 10,000 of the training rows (2.5 % in error; 4.9 % without
    sparsity).
    """
    from sklearn.linear_model import LogisticRegression

    import energax as ex

    with np.load(Path(folder) / FILE) as saved:
        data = {name: saved[name] for name in saved.files}
    train, test = (data[f"x_{part}"].reshape(-1, 784) / 255.0 for part in ("train", "test"))
    bits = (np.random.default_rng(0).random(train.shape) < train).astype(np.float32)
    start = ex.energies.BernoulliRBM.random(
        784, FEATURES, key=ex.random.key(0), data=bits, hidden_rate=RARE
    )
    objective = ex.objectives.ContrastiveDivergence(1)
    objective = ex.objectives.SparseHidden(objective, target=RARE, strength=0.5)
    fit, spent = trained(start, bits, objective, minutes, learning_rate=0.3, l2=1e-4)
    energy = fit.energy
    error = {}
    for name, of in (("features", lambda x: np.asarray(energy.hidden_mean(x))), ("pixels", None)):
        seen, asked = (x if of is None else of(x.astype(np.float32)) for x in (train, test))
        learner = LogisticRegression(C=0.1 if of is None else 0.3, max_iter=200)
        learner.fit(seen, data["y_train"])
        error[name] = 100 * float(np.mean(learner.predict(asked) != data["y_test"]))
    share = error["features"] / 100
    margin = 196 * np.sqrt(share * (1 - share) / len(test))
    return {
        "training": spent,
        "value": error["features"],
        "text": f"{error['features']:.2f} % [{error['features'] - margin:.2f}, "
        f"{error['features'] + margin:.2f}], pixels {error['pixels']:.2f} %; {fit.num_steps:,} "
        "steps; C = 0.3 and 0.1" + "".join(f"; the training: {reason}" for reason in fit.reasons),
    }
