"""A classifier that is an energy, too: JEM on scikit-learn's 8×8 digits.

    python recipes/jem_digits.py [--steps 4000]

One network gives ten numbers f(x, y); p(y | x) is their softmax, and log Σ_y exp f(x, y) a
log-density of images, trained by chains that move x alone (Grathwohl et al. 2020). So it can also
say which images are none of the digits.
"""

import argparse
import time

import equinox as eqx
import jax
import numpy as np

import energax as ex
from energax.objectives import ConditionalLikelihood, JointClassifier, ReplayCD
from energax.objectives.conditional import Marginal


def digits():
    """(train, test) as {"x": (rows, 64) in [0, 1], "y": (rows,)}."""
    from sklearn.datasets import load_digits

    found = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(found.target))
    x = found.data / 16.0 + 0.03 * rng.normal(size=found.data.shape)
    rows = {"x": x[order].astype(np.float32), "y": found.target[order]}
    return tuple({k: v[part] for k, v in rows.items()} for part in (slice(360, None), slice(360)))


def start(space, base, key):
    """f(x, y): output y of a network, and the log-density of a wide normal."""
    net = eqx.nn.MLP(64, 10, 128, 2, jax.nn.silu, key=jax.random.key(key))
    return ex.from_log_density(_Scores(net, ex.frozen(base)), space)


class _Scores(eqx.Module):
    net: eqx.Module
    base: eqx.Module

    def __call__(self, point):
        return self.net(point["x"])[point["y"]] - self.base(point["x"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    asked = parser.parse_args()
    train, test = digits()
    space = ex.Record(x=ex.Real((64,)), y=ex.Categorical((), 10))
    base = ex.energies.fitted_base(ex.Real((64,)), train["x"])
    strange = np.random.default_rng(1).permuted(test["x"], axis=0)  # each pixel from another image
    for name, objective in {
        "p(y | x) alone": ConditionalLikelihood(),
        "JEM": JointClassifier(ReplayCD(num_steps=20, num_chains=100, size=5_000)),
    }.items():
        began = time.process_time()
        run = ex.fit(
            start(space, base, 0),
            train,
            objective,
            key=ex.random.key(1),
            num_steps=asked.steps,
            learning_rate=1e-3,
            clip=10.0,
            average=0.999,
        )
        seconds = time.process_time() - began
        p = ex.classify(run.energy, {"x": test["x"]})
        right = np.mean(p.argmax(1) == test["y"])
        energy = jax.jit(jax.vmap(Marginal(run.energy, "y")))
        known, other = (np.asarray(energy({"x": x})) for x in (test["x"], strange))
        told = (known[:, None] < other).mean()
        verdict = "" if run.reliable else f"\n  NOT RELIABLE: {run.reasons[0]}"
        print(
            f"{name:15s} right {100 * right:.1f} %, tells digits from shuffled ones "
            f"{100 * told:.1f} %, {seconds:.0f} CPU s{verdict}"
        )


if __name__ == "__main__":
    main()
