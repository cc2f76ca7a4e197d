"""How good does a deep Boltzmann machine of 500 and 1,000 hidden units get at MNIST?

The variational bound on the log-likelihood of the binarised digits of the test rows (Larochelle's
split). Rate and penalty were chosen on the validation rows, which are then trained on, too. The
data come by `--data DIR` and are named where absent.
"""

from benchmarks._boltzmann import BATCH, CHAINS, likelihood, likelihood_report, trained
from benchmarks._data import binarised_mnist
from benchmarks._timing import Options, Report, clock

LAYERS, MINUTES = (500, 1000), 13.0  # of training; log Z comes after


def run(options: Options) -> Report:
    return likelihood_report(
        "mnist_dbm",
        f"Bound on the test log-likelihood of MNIST by a deep Boltzmann machine of {LAYERS[0]} and "
        f"{LAYERS[1]} hidden units, nats a digit.",
        options,
        MINUTES,
        to_reach=-84.0,
        published="DBM: -84.62",
    )


def job(folder: str, minutes: float) -> dict:
    """Layer by layer for an eighth of the time, then all of it by mean-field PCD, centred."""
    import energax as ex

    rows, test = binarised_mnist(folder, ("train", "valid")), binarised_mnist(folder, ("test",))
    spent = clock()
    energy = ex.pretrain(
        rows,
        LAYERS,
        key=ex.random.key(0),
        num_epochs=100,
        batch_size=BATCH,
        learning_rate=1e-3,
        max_seconds=60 * minutes / 16,  # a layer
    )
    begun = spent()
    objective = ex.objectives.MeanFieldPCD(num_steps=1, num_chains=CHAINS, num_updates=5)
    left = minutes - begun[0] / 60
    centred = ex.energies.CentredDBM.of(energy, rows)
    fit, rest = trained(centred, rows, objective, left, learning_rate=0.05, l2=1e-3)
    energy = fit.energy.plain
    z = ex.log_z(energy, key=ex.random.key(1))
    bound = ex.variational_bound(energy, test, key=ex.random.key(1), log_z=z).mean()
    return likelihood(bound, z, fit, (begun[0] + rest[0], begun[1] + rest[1]))
