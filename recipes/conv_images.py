"""A convolutional energy of images by chains from a replay buffer: draws from noise, and cleaning.

    python recipes/conv_images.py [--data mnist.npz] [--steps 3000] [--out FILE.png]

Without --data the images are scikit-learn's 8×8 digits; with it, `x_train` or the first array of
an .npz, 28×28. Langevin chains of 20 steps an update; pixels are in [0, 1] with a little noise
added, as a density on flat images is infinite at the edges.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import energax as ex


def images(path: str | None) -> np.ndarray:
    """(num, side, side) in [0, 1], in a random order."""
    if path is None:
        from sklearn.datasets import load_digits

        found = load_digits().images / 16.0
    else:
        with np.load(path) as file:
            name = "x_train" if "x_train" in file.files else file.files[0]
            found = file[name].reshape(len(file[name]), -1)
            side = int(np.sqrt(found.shape[1]))
            found = found.reshape(-1, side, side) / 255.0
    return np.random.default_rng(0).permutation(found).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help=".npz of images with pixels from 0 to 255")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", help="a picture: rows, draws, noisy and cleaned")
    asked = parser.parse_args()
    rows = images(asked.data)
    rows = rows + 0.03 * np.random.default_rng(1).normal(size=rows.shape).astype(np.float32)
    num = len(rows) // 5
    held_out, rows = rows[:num], rows[num:]
    space = ex.Real(rows.shape[1:])
    start = ex.energies.ConvNet(
        space, (32, 64), key=ex.random.key(0), base=ex.energies.fitted_base(space, rows)
    )
    objective = ex.objectives.EnergyPenalty(
        ex.objectives.ReplayCD(num_steps=20, num_chains=64, size=2_000), 0.001
    )
    began = time.process_time()
    run = ex.fit(
        start,
        rows,
        objective,
        key=ex.random.key(1),
        num_steps=asked.steps,
        batch_size=64,
        learning_rate=1e-3,
        average=0.999,
        clip=10.0,
        recover=True,
    )
    print(f"{asked.steps} steps in {time.process_time() - began:.0f} CPU s", *run.reasons)

    energy = jax.jit(jax.vmap(run.energy))
    data = np.asarray(energy(held_out))
    shuffled = np.random.default_rng(2).permuted(held_out.reshape(num, -1), axis=0)
    other = np.asarray(energy(shuffled.reshape(held_out.shape)))
    below = (data[:, None] < other).mean()
    print(f"a held-out image has less energy than one of shuffled pixels: {100 * below:.1f} %")

    noise = ex.GaussianNoise(0.4)
    noisy = held_out[:8] + 0.4 * np.random.default_rng(3).normal(size=held_out[:8].shape)
    cleaned = ex.denoise(run.energy, noisy.astype(np.float32), noise, key=ex.random.key(4))

    def error(x) -> float:
        return float(np.sqrt(np.mean((x - held_out[:8]) ** 2)))

    told = "" if cleaned.reliable else f", NOT RELIABLE: {cleaned.reasons[0]}"
    print(f"rms error with noise {error(noisy):.3f}, cleaned {error(cleaned.x):.3f}{told}")
    if asked.out:
        chains = run_chains(run.energy, rows, 8)
        draw([held_out[:8], chains, noisy, cleaned.x], asked.out)


def run_chains(energy, rows, num: int):
    """Where `num` chains are after 2,000 steps from noise of the data's mean and spread."""
    key = ex.random.key(5)
    x = rows.mean(0) + rows.std(0) * np.random.default_rng(6).normal(size=(num, *rows.shape[1:]))
    draws = ex.sample(
        energy,
        num,
        key=key,
        initial=jnp.asarray(x, jnp.float32),
        num_chains=num,
        num_warmup=1000,
        num_steps=1000,
    )
    return draws.x[:, -1]


def draw(lines, path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(lines), len(lines[0]), figsize=(8, 1.1 * len(lines)))
    for row, line in zip(axes, lines, strict=True):
        for axis, image in zip(row, line, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
