"""How the benchmarks train a Boltzmann machine for some minutes, and say what came of it."""

import math
import warnings
from typing import Any

import numpy as np

from benchmarks._data import BINARISED_MNIST
from benchmarks._timing import Options, Report, Timing, clock, isolated, say

BATCH, CHAINS, AVERAGE = 100, 100, 0.9995


def trained(
    energy: Any,
    rows: np.ndarray,
    objective: Any,
    minutes: float,
    learning_rate: float,
    l2: float,
    smooth: float = 0.0,
) -> tuple[Any, tuple[float, float]]:
    """A fit of as many steps as `minutes` take, and its (wall, CPU) seconds.

    Plain gradient steps whose rate falls to zero (Younes 1999): Adam at one rate keeps the weights
    moving faster than chains follow, and they ran away after 200,000 steps. Weights without a
    penalty grow until 100 chains no longer stand for the model: log Z, found by chains that cross,
    then says that most of its mass is where those of the training never were. The prior is
    w ~ N(0, P / (rows · l2)) for a hidden unit's weights of pixels: with `smooth` P has neighbours
    alike (`smoothing`), else it is 1.
    """
    import jax
    import optax

    import energax as ex

    def fitted(num_steps: int, seed: int, **options) -> Any:
        rate = optax.linear_schedule(learning_rate, 0.0, num_steps)
        decay = optax.add_decayed_weights(
            l2, mask=lambda tree: jax.tree.map(lambda a: a.ndim == 2, tree)
        )
        metric = smoothing(smooth) if smooth else optax.identity()
        steps = optax.chain(metric, decay, optax.sgd(rate))
        options |= {"optimizer": steps, "batch_size": BATCH, "average": AVERAGE}
        return ex.fit(
            energy, rows, objective, key=ex.random.key(seed), num_steps=num_steps, **options
        )

    warnings.simplefilter("ignore")
    spent = clock()
    tried, again = fitted(50, 2), fitted(250, 2)
    each = max((again.seconds - tried.seconds) / 200, again.seconds / 1000)
    left = 60 * minutes - spent()[0]
    fit = fitted(max(100, int(0.92 * left / each)), 0, max_seconds=max(left, 1.0))
    return fit, spent()


def smoothing(width: float) -> Any:
    """An Optax step: gradients of weights of pixels times P, their correlation with neighbours.

    P_ij = exp(−d²/(2·width²)), d being how far apart pixels are: gradient ascent in a metric under
    which the filters of hidden units are smooth.
    """
    import jax
    import jax.numpy as jnp
    import optax

    side, reach = 28, 2
    near = [math.exp(-0.5 * (d / width) ** 2) for d in range(reach + 1)]

    def smoothed(gradient):
        if gradient.ndim != 2 or len(gradient) != side * side:
            return gradient
        picture = gradient.reshape(side, side, -1)
        for axis in (0, 1):
            around = jnp.pad(picture, [(reach, reach) if a == axis else (0, 0) for a in range(3)])
            picture = sum(
                near[abs(d)] * jax.lax.slice_in_dim(around, reach + d, reach + d + side, axis=axis)
                for d in range(-reach, reach + 1)
            )
        return picture.reshape(gradient.shape)

    return optax.stateless(lambda gradients, _: jax.tree.map(smoothed, gradients))


def likelihood_report(
    name: str, question: str, options: Options, minutes: float, to_reach: float, published: str
) -> Report:
    """What `job` of the benchmark `name` finds on the binarised digits after so many minutes."""
    timings, limits, notes = [], [], []
    if options.data is None or not (options.data / BINARISED_MNIST).exists():
        notes.append(f"No data: give the folder that holds {BINARISED_MNIST} by --data DIR.")
    else:
        minutes = 0.5 if options.quick else options.minutes or minutes
        arguments = {"folder": str(options.data.resolve()), "minutes": minutes}
        found = isolated(f"benchmarks.{name}:job", arguments, options.threads)
        wall, cpu = found["training"]
        timings.append(Timing("training", 0.0, [wall], [cpu], found["peak"]))
        notes.append(
            f"OURS {found['value']:.2f} [{found['lower']:.2f}, {found['upper']:.2f}]; published: "
            f"{published}; to reach {to_reach:g}; {wall / 60:.1f} minutes of training; "
            f"{found['text']}"
        )
        say(notes[-1])
        if found["reliable"]:
            limits.append((f"short of {to_reach:g}", max(0.0, to_reach - found["value"]), 0.0))
        else:  # a number that may be anything reaches nothing
            limits.append(("figures that can't be trusted", 1.0, 0.0))
    return Report(
        name=name, question=question, timings=timings, ratios=[], limits=limits, notes=notes
    )


def likelihood(score: Any, z: Any, fit: Any, spent: tuple[float, float]) -> dict:
    """What a job returns: the mean of `score`, with its interval, and how it was found."""
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
