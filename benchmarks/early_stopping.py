"""What does it cost to track the log-likelihood through training?"""

from benchmarks._timing import Contender, Options, Report, race, ratio
from benchmarks.rbm_epoch import VISIBLE, rows

HIDDEN, STEPS, GIBBS, HELD = 200, 1500, 5, 500


def run(options: Options) -> Report:
    here = "benchmarks.early_stopping"
    folder = None if options.data is None else str(options.data.resolve())
    contenders = [
        Contender("training alone", f"{here}:train", {"folder": folder, "watch": False}),
        Contender("likelihood tracked", f"{here}:train", {"folder": folder, "watch": True}),
    ]
    timings = race(contenders, options.rounds(5), options.threads)
    record = watched(folder)
    return Report(
        name="early_stopping",
        question=f"{STEPS} updates of PCD-{GIBBS}, a Bernoulli RBM {VISIBLE}-{HIDDEN}, minibatches "
        f"of 100 and as many chains, float32; {HELD} held-out rows watched or not.",
        timings=timings,
        ratios=[ratio(timings, "likelihood tracked", "training alone", at_most=1.1, clock="cpu")],
        limits=[("share of the training's energy evaluations", record.share, 0.1)],
        notes=[
            f"{record.num_trusted} of {record.num_looks} looks could be trusted (standard error of "
            f"log Z at most 0.25 nat), with {record.num_anchors} run(s) from a base; at the best, "
            f"step {record.best_step}, {record.log_likelihood:.2f} ± {record.std_err:.2f} nats a "
            "row. Patience is endless here, so that both run to the end.",
        ],
    )


def _fit(folder: str | None, watch: bool):
    from energax import random
    from energax.energies import BernoulliRBM
    from energax.objectives import PersistentCD
    from energax.training import EarlyStopping, fit

    data, key = rows(folder), random.key(0)
    energy = BernoulliRBM.random(VISIBLE, HIDDEN, key=key, data=data[HELD:])
    watching = EarlyStopping(data[:HELD], patience=10**6) if watch else None
    objective = PersistentCD(num_steps=GIBBS)
    return lambda: fit(
        energy, data[HELD:], objective, key=key, num_steps=STEPS, early_stopping=watching
    )


def train(folder: str | None, watch: bool):
    import warnings

    warnings.simplefilter("ignore")  # a short training may not be trusted; the note says
    once = _fit(folder, watch)
    return lambda: once().energy.weight.block_until_ready()


def watched(folder: str | None):
    """What tracking told of the same training."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _fit(folder, True)().early_stopping
