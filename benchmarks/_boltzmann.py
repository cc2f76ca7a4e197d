"""How the benchmarks train a Boltzmann machine for some minutes."""

import warnings
from typing import Any

import numpy as np

from benchmarks._timing import clock

BATCH, AVERAGE = 100, 0.9995


def trained(
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
