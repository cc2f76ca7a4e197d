"""Spike words of 40 neurons: a pairwise model, its log Z with an error bar, and a check.

python recipes/spikes.py [--bins 20000]
"""

import argparse
import time

import jax.numpy as jnp
import numpy as np

import energax as ex

NEURONS = 40


def recording(bins: int) -> np.ndarray:
    """(bins, neurons): neurons that follow three hidden inputs, and their own rates."""
    rng = np.random.default_rng(0)
    follow = rng.normal(1.0, 1.2, (3, NEURONS)) * (rng.random((3, NEURONS)) < 0.5)
    inputs = (rng.random((bins, 3)) < 0.2) @ follow
    odds = rng.uniform(-4.5, -2.5, NEURONS) + inputs
    return (rng.random((bins, NEURONS)) < 1 / (1 + np.exp(-odds))).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bins", type=int, default=20_000)
    asked = parser.parse_args()
    words = recording(2 * asked.bins)
    words, held_out = words[: asked.bins], words[asked.bins :]
    space = ex.Binary((NEURONS,))
    start = ex.energies.BoltzmannMachine.zeros(space, words)
    began = time.process_time()
    run = ex.fit(
        start,
        words,
        ex.objectives.PseudoLikelihood(),
        key=ex.random.key(1),
        optimizer="lbfgs",
    )
    print(f"fitted in {time.process_time() - began:.1f} CPU s", *run.reasons)
    z = ex.log_z(run.energy, key=ex.random.key(2))
    print(f"log Z = {z.value:.3f} ± {z.std_err:.3f} nats by {z.method}", *z.reasons)
    silence = np.exp(float(run.energy.log_density(jnp.zeros(NEURONS))) - z.value)
    seen = np.mean(held_out.sum(1) == 0)
    print(f"p(silence) = {silence:.4f}, in the words held out {seen:.4f}")
    gain = np.mean(
        ex.score_samples(run.energy, held_out[:5000], key=ex.random.key(3)).log_prob
    ) - np.mean(ex.score_samples(start, held_out[:5000], key=ex.random.key(4)).log_prob)
    print(f"pairs are worth {gain:.3f} nats a held-out word")


if __name__ == "__main__":
    main()
