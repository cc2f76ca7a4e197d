"""The report of a training run: every question of the model asked once, with its verdict.

And the page of a training that is still going on.
"""

import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from energax import partition, samplers, spaces, tasks
from energax.energies import AbstractRBM
from energax.energies._base import AbstractEnergy
from energax.report import figures
from energax.report._base import Figure, Page
from energax.results import Verdict
from energax.training import Fit

_MOST_ROWS = 2000
_RELOAD_SECONDS = 10


def write_run_report(
    path: str | os.PathLike[str],
    fit: Fit,
    train: np.ndarray,
    test: np.ndarray,
    *,
    key,
    settings: dict[str, Any],
) -> Verdict:
    """Writes the page of a run: training, samples, chains, likelihood, anomalies, cleaning.

    **Arguments:** `train`, `test`: validated rows (test may be empty: sections on held-out rows are
    then left out, and the page says so). `settings`: what the run was started with, for the record.

    **Returns:** the verdict over all answers on the page.
    """
    energy = fit.energy
    keys = iter(jax.random.split(key, 8))
    page = Page(f"energax: {type(energy).__name__} on {energy.space}")
    reasons = [f"training: {reason}" for reason in fit.reasons]
    page.section(
        "The run",
        text=[f"{name}: {value}" for name, value in settings.items()]
        + [f"rows to train on: {len(train)}, held out: {len(test)}"],
    )
    if "step" in fit.history and len(fit.history["step"]):
        shown, text = [figures.training_curves(fit.history)], []
        if "log_likelihood" in fit.history:
            shown.append(figures.likelihood_curves(fit.history))
        if fit.early_stopping is not None:
            stopping = fit.early_stopping
            text = [
                f"ended after {stopping.last_step} steps: {stopping.reason}",
                f"best at step {stopping.best_step}: {stopping.log_likelihood:.3f} nats a row, "
                f"± {stopping.std_err:.3f} (log Z) ± {stopping.sampling_std_err:.3f} (rows)",
                f"the looks took {stopping.share:.1%} of the training's energy evaluations",
            ]
        page.section("Training", text=text, figures=shown)
    draws = samplers.sample(energy, 1000, key=next(keys))
    reasons += [f"samples: {reason}" for reason in draws.reasons]
    _samples_section(page, energy, draws, train, test)
    if isinstance(energy, AbstractRBM):
        _hidden_section(page, energy, train)
    z = partition.log_z(energy, key=next(keys))
    reasons += [f"log Z: {reason}" for reason in z.reasons]
    if len(test):
        _likelihood_section(page, energy, z, train, test)
        _anomaly_section(page, energy, train, test)
        reasons += _cleaning_section(page, energy, test, next(keys))
    else:
        page.section("Held-out rows", text=["none: fit with --test-fraction above 0 to see more"])
    page.judge(reasons)
    page.write(path)
    return Verdict(tuple(reasons))


def _samples_section(page: Page, energy: AbstractEnergy, draws, train, test) -> None:
    flat = draws.flat()
    energy_of = jax.jit(jax.vmap(energy))
    sides = {"train": train[:_MOST_ROWS], "test": test[:_MOST_ROWS], "samples": flat}
    values = {
        name: np.asarray(energy_of(jnp.asarray(rows))) for name, rows in sides.items() if len(rows)
    }
    shown: list[Figure] = []
    images = figures.as_images(flat)
    if images is not None:
        shown.append(figures.image_grid(images[:: len(images) // 40][:40], "draws of the model"))
    elif np.ndim(flat) == 2:
        shown.append(figures.coordinate_histograms(np.asarray(train), np.asarray(flat)))
    if energy.space.is_continuous and np.shape(flat)[1:] == (2,):
        shown.append(figures.landscape(energy, {draws.sampler: draws}))
    shown += [figures.energy_histograms(values), figures.chain_diagnostics(draws)]
    page.section(
        "Samples",
        text=[
            f"sampler {draws.sampler}, {draws.num_chains} chains of {draws.num_steps} steps, "
            f"acceptance {draws.acceptance:.2f}",
            f"smallest bulk ESS {np.min(draws.ess_bulk):.0f}, largest R-hat "
            f"{np.max(draws.rhat):.3f} (limit {draws.rhat_limit:.3f})",
            _verdict(draws),
        ],
        figures=shown,
    )


def _hidden_section(page: Page, energy: AbstractRBM, train) -> None:
    rows = jax.tree.map(lambda a: a[:_MOST_ROWS], train)
    mean = np.asarray(tasks.features(energy, rows), np.float64)
    still = int((mean.std(axis=0) < 0.01 * max(float(mean.std()), 1e-12)).sum())
    page.section(
        "What the hidden units see",
        text=[
            f"{mean.shape[1]} hidden units, {still} of them the same on all training rows",
            f"mean activity {mean.mean():.3g}, of single units from {mean.mean(0).min():.3g} to "
            f"{mean.mean(0).max():.3g}",
        ],
        figures=[figures.filters(np.asarray(energy.weight))],
    )


def _likelihood_section(page: Page, energy: AbstractEnergy, z, train, test) -> None:
    table = [
        ["rows", "mean log-likelihood", "error of log Z", "error of finite rows", "95 % interval"]
    ]
    for name, rows in (("train", train), ("test", test)):
        mean = tasks.score_samples(energy, rows, key=None, log_z=z).mean()
        table.append(
            [
                name,
                f"{mean.value:.3f}",
                f"{mean.log_z_std_err:.3f}",
                f"{mean.sampling_std_err:.3f}",
                f"[{mean.lower:.3f}, {mean.upper:.3f}]",
            ]
        )
    low, high = ("none" if v is None else f"{v:.3f}" for v in z.bracket)
    page.section(
        "Log-likelihood (nats a row)",
        text=[
            f"log Z = {z.value:.3f} ± {z.std_err:.3f} by {z.method}, bracket [{low}, {high}]",
            _verdict(z),
        ],
        table=table,
    )


def _anomaly_section(page: Page, energy: AbstractEnergy, train, test) -> None:
    odd = tasks.anomaly_scores(energy, test, held_out=train[:_MOST_ROWS])
    order = np.argsort(-odd.scores)
    shown = []
    images = figures.as_images(test)
    if images is not None:
        shown = [
            figures.image_grid(images[order[:20]], "most anomalous held-out rows"),
            figures.image_grid(images[order[::-1][:20]], "least anomalous held-out rows"),
        ]
    table = [["held-out row", "energy"]]
    table += [[str(i), f"{odd.scores[i]:.3f}"] for i in (*order[:5], *order[-5:])]
    page.section(
        "Most and least anomalous held-out rows",
        text=["the five highest and the five lowest energies"],
        table=table,
        figures=shown,
    )


def _cleaning_section(page: Page, energy: AbstractEnergy, test, key) -> list[str]:
    """Adds noisy and cleaned pairs where a noise model fits the space; returns reasons of doubt."""
    key_noise, key_clean = jax.random.split(key)
    rows = jnp.asarray(test[:50])
    match energy.space:
        case spaces.Binary() | spaces.Spin():
            noise, words = tasks.BitFlip(0.1), "10 % of the sites flipped"
        case spaces.Real():
            sd = 0.3 * float(np.std(test))
            noise, words = tasks.GaussianNoise(sd), f"Gaussian noise of sd {sd:.3g}"
        case _:
            return []
    noisy = noise.corrupt(rows, energy.space, key=key_noise)
    cleaned = tasks.denoise(energy, noisy, noise, key=key_clean)
    before = float(jnp.mean((noisy - rows) ** 2))
    after = float(np.mean((cleaned.x - np.asarray(rows)) ** 2))
    shown = []
    images = figures.as_images(rows)
    if images is not None:
        pairs = {
            "true": images[:10],
            "noisy": np.asarray(noisy).reshape(images.shape)[:10],
            "cleaned": np.asarray(cleaned.mean).reshape(images.shape)[:10],
        }
        shown = [figures.before_after(pairs, images.shape[1:])]
    page.section(
        "Cleaning",
        text=[
            f"{words} on {len(rows)} held-out rows: mean squared error {before:.4g} before, "
            f"{after:.4g} after by posterior mean",
            _verdict(cleaned),
        ],
        figures=shown,
    )
    return [f"cleaning: {reason}" for reason in cleaned.reasons]


def _verdict(answer) -> str:
    return "reliable" if answer.reliable else "NOT RELIABLE: " + "; ".join(answer.reasons)


class LiveReport:
    """A `callback=` of `fit` that writes the training's curves to `path` every few seconds.

    The page loads itself again every ten seconds in a browser, until `close` (or the end of a
    `with` block) writes the last one. It holds at most some 2,000 points of each curve.

    **Arguments:** `title`: of the page. `every_seconds`: between two writings.

    **Raises:** ImportError without Matplotlib and Jinja2; OSError if it cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], title: str = "energax", *, every_seconds: float = 10.0
    ):
        self.path, self.title, self.every_seconds = Path(path), title, every_seconds
        self._rows: dict[str, list[float]] = {"step": []}
        self._every, self._calls = 1, 0
        self._began, self._written = time.monotonic(), -np.inf
        self._last: tuple[int, dict[str, float]] | None = None

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if self._calls % self._every == 0:
            for name, value in {**metrics, "step": float(step)}.items():
                self._rows.setdefault(name, []).append(value)
            if len(self._rows["step"]) > 2_000:  # every second one
                self._rows = {name: values[::2] for name, values in self._rows.items()}
                self._every *= 2
        self._calls += 1
        self._last = step, metrics
        now = time.monotonic()
        if now - self._written >= self.every_seconds:
            self._write(step, metrics)
            self._written = time.monotonic()

    def close(self) -> None:
        """Writes the page once more, as that of a training that has ended."""
        if self._last is not None:
            self._write(*self._last, ended=True)

    def __enter__(self) -> "LiveReport":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _write(self, step: int, metrics: dict[str, float], ended: bool = False) -> None:
        state = "training has ended" if ended else "still training"
        page = Page(
            f"{self.title}: step {step:,}, {state}",
            reload_seconds=None if ended else _RELOAD_SECONDS,
        )
        history = {name: np.asarray(values) for name, values in self._rows.items()}
        page.section(
            "Training",
            text=[f"for {time.monotonic() - self._began:.0f} seconds"]
            + [f"{name}: {value:.5g}" for name, value in metrics.items() if name != "step"],
            figures=[figures.training_curves(history)],
        )
        page.write(self.path)
