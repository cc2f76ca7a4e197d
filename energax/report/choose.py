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

from energax import jobs, partition, samplers, spaces, tasks
from energax.energies import AbstractRBM
from energax.energies._base import AbstractEnergy, AbstractSmoothed
from energax.report import figures
from energax.report._base import Figure, Page
from energax.results import Verdict
from energax.training import Curves, Fit, Progress, read_progress

_MOST_ROWS = 2000
_MOST_UNUSUAL = 30
_MOST_TRIED = 2**20  # energies that ask which columns make rows unusual, where sites are numbers
_MOST_PAIRED_COLUMNS = 8
_RELOAD_SECONDS = 10
_LOOK_SECONDS = 0.5  # between two looks whether a training has news


def write_run_report(
    path: str | os.PathLike[str],
    fit: Fit,
    train: np.ndarray,
    test: np.ndarray,
    *,
    key,
    settings: dict[str, Any],
    test_numbers: np.ndarray | None = None,
) -> Verdict:
    """Writes the page of a run: training, samples, chains, likelihood, anomalies, cleaning.

    **Arguments:** `train`, `test`: validated rows (test may be empty: sections on held-out rows are
    then left out, and the page says so). `settings`: what the run was started with, for the record.
    `test_numbers`: of the held-out rows in their file, from 0; None counts the held-out rows.

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
        _anomaly_section(page, energy, train, test, test_numbers)
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
        if energy.space.is_continuous and np.shape(flat)[1] > 1:
            columns = [f"column {i}" for i in range(np.shape(flat)[1])][:_MOST_PAIRED_COLUMNS]
            shown.append(figures.pairs({"data": np.asarray(train), "draws": flat}, columns))
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


def _anomaly_section(page: Page, energy: AbstractEnergy, train, test, numbers) -> None:
    reference = train[:_MOST_ROWS]
    table, shown = unusual_rows(energy, test, reference=reference, numbers=numbers)
    images = figures.as_images(test)
    if images is not None:
        energies = np.asarray(jax.jit(jax.vmap(energy))(jnp.asarray(test)))
        usual = images[np.argsort(energies)[:20]]
        shown.append(figures.image_grid(usual, "least anomalous held-out rows"))
    page.section(
        "Most unusual held-out rows",
        text=[
            f"the {len(table) - 1} with the highest energies of {len(test)}; p-value: the share of "
            f"{len(reference)} training rows that are as unusual",
            "(where the model has memorised those, it is too small)",
            "nats: how far the energy would fall if that column alone had its most usual value",
        ],
        table=table,
        caption="Most unusual held-out rows; a click on a header sorts by it",
        sortable=True,
        figures=shown,
    )


def unusual_rows(
    energy: AbstractEnergy,
    rows: np.ndarray,
    *,
    reference: np.ndarray,
    numbers: np.ndarray | None = None,
    most: int = _MOST_UNUSUAL,
) -> tuple[list[list[str]], list[Figure]]:
    """(a table with its header, figures) of the rows of highest energy, and the columns that made
    them so by `tasks.explain`.

    **Arguments:** `rows`: validated, (rows, *event). `reference`: rows for p-values and usual
    values of the columns. `numbers`: what to call the rows; None counts them.
    """
    odd = tasks.anomaly_scores(energy, rows, held_out=reference)
    order = np.argsort(-odd.scores, kind="stable")[:most]
    numbers = np.arange(len(rows)) if numbers is None else numbers
    chosen, space = rows[order], energy.space
    tried = int(np.clip(_MOST_TRIED // (len(chosen) * space.num_sites), 2, 32))
    why = tasks.explain(energy, chosen, reference=reference, num_values=tried)
    own = np.asarray(space.decode(chosen)) if isinstance(space, spaces.Categorical) else chosen
    table = [["row", "energy", "p-value", "column", "its value", "usual", "nats", "next columns"]]
    for i, row in enumerate(order):
        cells = [str(numbers[row]), f"{odd.scores[row]:.3f}", f"{odd.p_values[row]:.3g}"]
        found = why.top(i)
        if found:
            (place, nats), *others = found
            values = (f"{own[i][place]:.4g}", f"{why.best[i][place]:.4g}")
            rest = ", ".join(f"{_column(place)} ({nats:.2f})" for place, nats in others)
            cells += [_column(place), *values, f"{nats:.2f}", rest]
        else:
            cells += ["none", "", "", "0", ""]
        table.append(cells)
    images = figures.as_images(chosen[:10])
    if images is None or why.contributions[0].size != images[0].size:
        return table, []
    shares = why.contributions[:10].reshape(images.shape)
    return table, [figures.unusual_images(images, shares)]


def _column(place: tuple[int, ...]) -> str:
    return ("column " if len(place) == 1 else "pixel ") + ", ".join(map(str, place))


def _cleaning_section(page: Page, energy: AbstractEnergy, test, key) -> list[str]:
    """Adds noisy and cleaned pairs where a noise model fits the space; returns reasons of doubt."""
    key_noise, key_clean = jax.random.split(key)
    rows = jnp.asarray(test[:50])
    match energy.space:
        case spaces.Binary() | spaces.Spin():
            noise, words = tasks.BitFlip(0.1), "10 % of the sites flipped"
        case spaces.Real():
            known = isinstance(energy, AbstractSmoothed)
            sd = energy.sigma if known else 0.3 * float(np.std(test))
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
        self._curves, self._step = Curves(), 0
        self._began, self._written = time.monotonic(), -np.inf

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._curves(step, metrics)
        self._step = step
        if time.monotonic() - self._written >= self.every_seconds:
            self._write("still training")
            self._written = time.monotonic()

    def close(self) -> None:
        """Writes the page once more, as that of a training that has ended."""
        if self._step:
            self._write("training has ended")

    def __enter__(self) -> "LiveReport":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _write(self, state: str) -> None:
        _write_training_page(
            self.path,
            f"{self.title}: step {self._step:,}, {state}",
            [f"for {time.monotonic() - self._began:.0f} seconds"],
            self._curves.history,
            _RELOAD_SECONDS if state == "still training" else None,
        )


def _write_training_page(
    path: Path, title: str, text: list[str], history: dict[str, np.ndarray], reload: int | None
) -> None:
    page = Page(title, reload_seconds=reload)
    shown = []
    if len(history["step"]):
        last = {name: values[-1] for name, values in history.items() if name != "step"}
        text = [*text, *(f"{name}: {value:.5g}" for name, value in last.items())]
        shown = [figures.training_curves(history)]
    page.section("Training", text=text, figures=shown)
    page.write(path)


_ENDS = {
    "interrupted": "interrupted",
    "failed": "failed",
    "lost": "gone without a word",
    "running": "still training, no longer watched",
}


def watch(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    max_seconds: float | None = None,
    every_seconds: float = 5.0,
) -> str:
    """Writes the page of the training that goes on in the folder `run` again and again.

    It reads what `energax fit` (or a `training.ProgressFile`) tells of it there. In a browser the
    page loads itself again, as often, and keeps its place and what figures show.

    **Arguments:** `max_seconds`: how long to watch, None until training ends. `every_seconds`:
    between two writings.

    **Returns:** "ended"; "interrupted"; "failed"; "lost" if the process that trained is gone
    without a word; "running" if time is up.

    **Raises:** OSError if `out` cannot be written. KeyboardInterrupt, on Ctrl-C, once the page says
    that nobody writes it any more.
    """
    run, out = Path(run), Path(out)
    began, written = time.monotonic(), -np.inf
    news: Progress | None = None
    shown: float | None = None  # when the news were written that the page has
    reload = max(1, round(every_seconds))
    try:
        while True:
            news = _news_of(run) or news
            state = _state_of(run, news)
            if state == "lost":  # what it said last is there once it is gone
                news = _news_of(run)
                state = _state_of(run, news)
            if state == "ended":
                _write_watched(out, run, "ended, its report is on the way", news, reload)
                return state
            time_is_up = max_seconds is not None and time.monotonic() - began >= max_seconds
            if state != "running" or time_is_up:
                _write_watched(out, run, _ENDS[state], news)
                return state
            is_new = news is not None and news.written != shown
            if written == -np.inf or (is_new and time.monotonic() - written >= every_seconds):
                _write_watched(out, run, "still training", news, reload)
                written, shown = time.monotonic(), None if news is None else news.written
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        _write_watched(out, run, _ENDS["running"], news)
        raise


def _news_of(run: Path) -> Progress | None:
    try:
        return read_progress(run / jobs.PROGRESS)
    except FileNotFoundError:
        return None


def _state_of(run: Path, news: Progress | None) -> str:
    if news is None:  # of a training that tells nothing, its result shows
        return "ended" if (run / "fit.json").is_file() else "running"
    if news.is_lost:
        return "lost"
    return "running" if news.state == "training" else news.state


def _write_watched(
    out: Path, run: Path, words: str, news: Progress | None, reload: int | None = None
) -> None:
    if news is None:
        _write_training_page(out, f"{run}: no news yet, {words}", [], {"step": np.zeros(0)}, reload)
        return
    of = "" if news.num_steps is None else f" of {news.num_steps:,}"
    at = time.strftime("%H:%M:%S", time.localtime(news.written))
    text = [f"for {news.seconds:.0f} seconds; last news at {at}"]
    title = f"{run}: step {news.step:,}{of}, {words}"
    _write_training_page(out, title, text, news.history, reload)
