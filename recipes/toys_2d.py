"""Every objective for real rows on a toy in the plane: what it costs and how well it does.

    python recipes/toys_2d.py [--data moons|ring|spiral] [--objective NAME ...] [--out FILE.png]

The model is an MLP (2-64-64-1) on a wide normal. Z is integrated, so that the mean log-likelihood
of held-out rows is exact; denoising and its kin are trained for rows with noise, and are a little
lower for it.
"""

import argparse
import time

import numpy as np

import energax as ex
from energax import objectives as o

OBJECTIVES = {
    "PersistentCD": lambda: o.PersistentCD(num_steps=10),
    "ContrastiveDivergence": lambda: o.ContrastiveDivergence(num_steps=10),
    "ReplayCD": lambda: o.ReplayCD(num_steps=10),
    "ImprovedCD": lambda: o.ImprovedCD(num_steps=10),
    "RecoveryLikelihood": lambda: o.RecoveryLikelihood(num_steps=10),
    "ScoreMatching": o.ScoreMatching,
    "SlicedScoreMatching": o.SlicedScoreMatching,
    "DenoisingScoreMatching": o.DenoisingScoreMatching,
    "MultiscaleDenoising": o.MultiscaleDenoising,
    "NoiseContrastive": o.NoiseContrastive,
    "ConditionalNCE": o.ConditionalNCE,
    "EnergyDiscrepancy": o.EnergyDiscrepancy,
}


def rows_of(name: str, num: int, seed: int) -> np.ndarray:
    """(num, 2), of standard deviation near 1 along either axis."""
    rng = np.random.default_rng(seed)
    t = rng.random(num)
    if name == "moons":
        angle, upper = np.pi * t, rng.random(num) < 0.5
        x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
        y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
        points = np.stack([x - 0.5, 2 * y - 0.5], -1)
    elif name == "ring":
        points = 1.4 * np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], -1)
    else:
        angle = 3 * np.pi * np.sqrt(t)
        points = 0.2 * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return points + 0.12 * rng.normal(size=(num, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=["moons", "ring", "spiral"], default="moons")
    parser.add_argument("--objective", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", help="a picture of the densities")
    asked = parser.parse_args()
    rows, held_out = rows_of(asked.data, 5000, seed=0), rows_of(asked.data, 5000, seed=1)
    space, densities = ex.Real((2,)), {}
    for name in asked.objective:
        base = ex.energies.fitted_base(space, rows)
        start = ex.energies.MLP(space, 64, key=ex.random.key(0), base=base)
        began = time.process_time()
        run = ex.fit(
            start,
            rows,
            OBJECTIVES[name](),
            key=ex.random.key(1),
            num_steps=asked.steps,
            batch_size=200,
            learning_rate=0.004,
        )
        seconds = time.process_time() - began
        z = ex.log_z(run.energy, key=ex.random.key(2))
        scores = ex.score_samples(run.energy, held_out, key=ex.random.key(3), log_z=z)
        verdict = "" if run.reliable and scores.reliable else "  NOT RELIABLE"
        print(
            f"{name:24s} {scores.log_prob.mean():8.3f} nats a row, {seconds:5.1f} CPU s{verdict}",
            flush=True,
        )
        densities[name] = run.energy, z.value
    if asked.out:
        draw(densities, held_out, asked.out)


def draw(densities, rows, path) -> None:
    import jax
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    side = np.linspace(-3, 3, 120)
    grid = np.stack(np.meshgrid(side, side), -1)
    columns = min(4, len(densities))
    lines = -(-len(densities) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3 * columns, 3 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, (energy, log_z)) in zip(axes.flat, densities.items(), strict=False):
        f = np.asarray(jax.vmap(energy.log_density)(grid.reshape(-1, 2)))
        axis.imshow(np.exp(f - log_z).reshape(120, 120), extent=(-3, 3, -3, 3), origin="lower")
        axis.scatter(*rows[:300].T, s=1, c="white")
        axis.set_title(name, fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
