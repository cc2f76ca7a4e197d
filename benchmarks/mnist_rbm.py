"""How good does an RBM of 500 hidden units get at MNIST within an hour?

The log-likelihood of the binarised digits of the test rows (Larochelle's split). Rate, penalty and
the width of the prior were chosen on the validation rows, which are then trained on, too. The data
come by `--data DIR` and are named where absent.
"""

from benchmarks._boltzmann import CHAINS, likelihood, likelihood_report, trained
from benchmarks._data import binarised_mnist
from benchmarks._timing import Options, Report

HIDDEN, MINUTES = 500, 55.0  # of training; log Z comes after


def run(options: Options) -> Report:
    return likelihood_report(
        "mnist_rbm",
        f"Test log-likelihood of MNIST by an RBM of {HIDDEN} hidden units, nats a digit.",
        options,
        MINUTES,
        to_reach=-84.5,
        published="RBM, CD-25: -86.34",
    )


def job(folder: str, minutes: float) -> dict:
    """Persistent chains in centred parameters; averaged weights; log Z by annealing both ways."""
    import energax as ex

    rows, test = binarised_mnist(folder, ("train", "valid")), binarised_mnist(folder, ("test",))
    start = ex.energies.BernoulliRBM.random(784, HIDDEN, key=ex.random.key(0), data=rows)
    centred = ex.energies.CentredRBM.of(start, rows)
    objective = ex.objectives.PersistentCD(num_chains=CHAINS)
    fit, spent = trained(centred, rows, objective, minutes, learning_rate=0.1, l2=1e-3, smooth=0.7)
    energy = fit.energy.plain
    z = ex.log_z(energy, key=ex.random.key(1))
    score = ex.score_samples(energy, test, key=ex.random.key(1), log_z=z).mean()
    return likelihood(score, z, fit, spent)
