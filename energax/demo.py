"""The main job: one model of handwritten digits, every question asked of it, one report.

Data are scikit-learn's embedded 8×8 digits, a pixel on where its grey value is at least 8 of 16,
with 80 % of the rows to train on. Every number is computed here and now.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from energax import (
    energies,
    objectives,
    partition,
    random,
    report,
    samplers,
    spaces,
    tasks,
    training,
)
from energax.results import plain

NUM_HIDDEN = 64
NUM_UPDATES = 6000
FLIP_RATE = 0.1


@dataclasses.dataclass
class Outcome:
    """What the demo prints (`lines`), the same as data, and the verdict over all its answers."""

    lines: list[str]
    data: dict[str, Any]
    reliable: bool
    reasons: tuple[str, ...]


@dataclasses.dataclass
class _Book:
    """Collects the demo's lines, figures and verdicts as the sections come in."""

    page: report.Page
    say: Callable[[str], None]
    lines: list[str] = dataclasses.field(default_factory=list)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    reasons: list[str] = dataclasses.field(default_factory=list)

    def add(
        self, title: str, rows: list[str], data: dict[str, Any], figures=(), **table: Any
    ) -> None:
        self.lines += ["", title, *(f"  {row}" for row in rows)]
        self.data |= data
        self.page.section(title, text=rows, figures=figures, **table)

    def judge(self, what: str, answer) -> None:
        self.reasons += [f"{what}: {reason}" for reason in answer.reasons]


def run(out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None]) -> Outcome:
    """Runs the whole path and writes `out`/report.html."""
    started = time.perf_counter()
    key = random.key(seed)
    keys = iter(jax.random.split(key, 16))
    book = _Book(report.Page("energax on handwritten digits"), say)
    train, test, train_labels, test_labels = digits(seed)
    num_updates = NUM_UPDATES // 10 if quick else NUM_UPDATES

    say(f"training an RBM (64-{NUM_HIDDEN}) by persistent contrastive divergence ...")
    fitted = fit_rbm(train, num_updates, key=next(keys))
    book.judge("training", fitted)
    fitted.save(out / "run")
    _likelihood(book, fitted, train, test, next(keys))
    _samples(book, fitted, train, test, next(keys))
    _anomalies(book, train, test, train_labels, test_labels, num_updates, next(keys))
    _unusual(book, fitted.energy, train, test)
    _cleaning(book, fitted.energy, test, next(keys))
    _features(book, fitted.energy, train, test, train_labels, test_labels)
    _two_dimensions(book, next(keys))

    seconds = time.perf_counter() - started
    book.lines += ["", f"all of it took {seconds:.0f} s"]
    book.data["seconds"] = seconds
    book.page.write(out / "report.html")
    return Outcome(book.lines, plain(book.data), not book.reasons, tuple(book.reasons))


def digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train, test, train labels, test labels): binarised 8×8 digits as rows of 64."""
    from sklearn.datasets import load_digits

    data, labels = map(np.asarray, load_digits(return_X_y=True))
    rows = (data >= 8).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out, kept = order[: len(rows) // 5], order[len(rows) // 5 :]
    return rows[kept], rows[held_out], labels[kept], labels[held_out]


def fit_rbm(rows: np.ndarray, num_updates: int, *, key) -> training.Fit:
    """The demo's model: an RBM, PCD-5, with averaged weights."""
    import optax

    key_start, key_fit = jax.random.split(key)
    energy = energies.BernoulliRBM.random(rows.shape[1], NUM_HIDDEN, key=key_start, data=rows)
    schedule = optax.linear_schedule(3e-3, 3e-4, num_updates)
    return training.fit(
        energy,
        rows,
        objectives.PersistentCD(num_steps=5),
        key=key_fit,
        optimizer=optax.adam(schedule),
        num_steps=num_updates,
        batch_size=100,
        average=0.999,
    )


def _interval(values: np.ndarray, shared_error: float = 0.0) -> tuple[float, float, float]:
    """(mean, lower, upper): 95 % interval of a mean whose rows share an error."""
    error = np.hypot(values.std(ddof=1) / np.sqrt(len(values)), shared_error)
    return (
        float(values.mean()),
        float(values.mean() - 1.96 * error),
        float(values.mean() + 1.96 * error),
    )


def _likelihood(book: _Book, fitted, train, test, key) -> None:
    book.say("estimating log Z and held-out likelihood ...")
    z = partition.log_z(fitted.energy, key=key, precision=0.05)
    book.judge("log Z", z)
    scores = tasks.score_samples(fitted.energy, test, key=key, log_z=z)
    tree = np.asarray(jax.vmap(energies.ChowLiuTree.fit(train).log_prob)(jnp.asarray(test)), float)
    pixels = energies.fitted_base(spaces.Binary((train.shape[1],)), train)
    independent = np.asarray(jax.vmap(pixels.log_prob)(jnp.asarray(test)), float)
    mean = scores.mean()
    gain, low, high = _interval(scores.log_prob - tree, z.std_err)
    low_z, high_z = z.bracket
    book.add(
        "Held-out log-likelihood (nats a digit)",
        [
            f"RBM                {mean.value:8.2f} ± {mean.log_z_std_err:.3f} (log Z) "
            f"± {mean.sampling_std_err:.2f} ({len(test)} test digits)",
            f"Chow-Liu tree      {tree.mean():8.2f} (exact)",
            f"independent pixels {independent.mean():8.2f} (exact)",
            f"RBM beats the tree by {gain:.2f}, 95 % interval [{low:.2f}, {high:.2f}]",
            f"log Z = {z.value:.3f} ± {z.std_err:.3f} by {z.method}, bracket "
            f"[{_text(low_z)}, {_text(high_z)}], {_verdict(z)}",
        ],
        {
            "rbm_log_likelihood": mean.value,
            "log_z_std_err": mean.log_z_std_err,
            "test_std_err": mean.sampling_std_err,
            "chow_liu_log_likelihood": tree.mean(),
            "independent_log_likelihood": independent.mean(),
            "gain_over_chow_liu": gain,
            "gain_interval": [low, high],
            "log_z": z.summary(),
        },
        figures=[report.figures.training_curves(fitted.history)],
    )


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _verdict(answer) -> str:
    return "reliable" if answer.reliable else "NOT RELIABLE: " + "; ".join(answer.reasons)


def _samples(book: _Book, fitted, train, test, key) -> None:
    book.say("sampling ...")
    draws = samplers.sample(fitted.energy, 1000, key=key)
    book.judge("samples", draws)
    flat = draws.flat()
    energy_of = jax.jit(jax.vmap(fitted.energy))
    sides = {"train": train, "test": test, "samples": flat}
    energy_values = {name: np.asarray(energy_of(jnp.asarray(x))) for name, x in sides.items()}
    book.add(
        "Samples",
        [
            f"1000 draws by {draws.sampler}, {draws.num_steps} steps of {draws.num_chains} chains: "
            f"smallest bulk ESS {draws.ess_bulk.min():.0f}, largest R-hat {draws.rhat.max():.3f} "
            f"(limit {draws.rhat_limit:.3f}), {_verdict(draws)}",
            "mean energy: "
            + ", ".join(f"{name} {values.mean():.2f}" for name, values in energy_values.items()),
        ],
        {"samples_reliable": draws.reliable, "samples_min_ess": float(draws.ess_bulk.min())},
        figures=[
            report.figures.image_grid(flat[:: len(flat) // 40][:40].reshape(-1, 8, 8), "samples"),
            report.figures.energy_histograms(energy_values),
            report.figures.chain_diagnostics(draws),
        ],
    )


def _anomalies(book: _Book, train, test, train_labels, test_labels, num_updates, key) -> None:
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import LocalOutlierFactor

    book.say("leaving out one digit class at a time and spotting it ...")
    table, all_scores = [], []
    for digit in range(10):
        normal = train[train_labels != digit]
        truth = test_labels == digit
        fitted = fit_rbm(normal, num_updates // 2, key=jax.random.fold_in(key, digit))
        book.judge(f"training without the digit {digit}", fitted)
        odd = tasks.anomaly_scores(fitted.energy, test, held_out=test[~truth])
        forest = IsolationForest(random_state=0).fit(normal)
        factor = LocalOutlierFactor(novelty=True).fit(normal)
        scores = [odd.scores, -forest.score_samples(test), -factor.score_samples(test)]
        all_scores.append([roc_auc_score(truth, s) for s in scores])
        table.append([str(digit), *(f"{a:.3f}" for a in all_scores[-1])])
        if digit == 0:
            shown = np.argsort(odd.scores)
    mean = np.mean(all_scores, axis=0)
    table.append(["mean", *(f"{a:.3f}" for a in mean)])
    header = ["left-out digit", "energax RBM", "IsolationForest", "LocalOutlierFactor"]
    book.add(
        "Spotting a digit class left out of training (AUROC on test digits)",
        [
            f"mean over the ten classes: RBM {mean[0]:.3f}, IsolationForest {mean[1]:.3f}, "
            f"LocalOutlierFactor {mean[2]:.3f}",
        ],
        {"auroc": dict(zip(header[1:], mean, strict=True)), "auroc_by_digit": all_scores},
        figures=[
            report.figures.image_grid(test[shown[-20:]].reshape(-1, 8, 8), "most anomalous (no 0)"),
            report.figures.image_grid(test[shown[:20]].reshape(-1, 8, 8), "least anomalous"),
        ],
        table=[header, *table],
        caption="AUROC; a click on a header sorts by it",
        sortable=True,
    )


def _unusual(book: _Book, energy, train, test) -> None:
    book.say("asking which pixels make digits unusual ...")
    table, shown = report.unusual_rows(energy, test, reference=train)
    number, value, p_value, pixel, *_, nats, _ = table[1]
    book.add(
        "The most unusual test digits, and their pixels",
        [
            f"test digit {number} has the highest energy, {value}, p-value {p_value}; "
            f"{pixel} contributes most: the energy falls by {nats} nats if it alone is flipped"
        ],
        {"most_unusual": int(number)},
        figures=shown,
        table=table,
        caption="Most unusual test digits; a click on a header sorts by it",
        sortable=True,
    )


def _cleaning(book: _Book, energy, test, key) -> None:
    book.say("cleaning digits with flipped pixels ...")
    key_noise, key_clean = jax.random.split(key)
    noise = tasks.BitFlip(FLIP_RATE)
    noisy = np.asarray(noise.corrupt(jnp.asarray(test), energy.space, key=key_noise))
    cleaned = tasks.denoise(energy, noisy, noise, key=key_clean)
    book.judge("cleaning", cleaned)
    before = float((noisy != test).mean())
    by_mean, by_mode = float((cleaned.x != test).mean()), float((cleaned.mode != test).mean())
    shown = slice(0, 10)
    book.add(
        f"Cleaning {FLIP_RATE:.0%} flipped pixels",
        [
            f"wrong pixels: {before:.2%} before, {by_mean:.2%} after by posterior mean, "
            f"{by_mode:.2%} by posterior mode ({len(test)} test digits, {_verdict(cleaned)})"
        ],
        {"wrong_before": before, "wrong_after_mean": by_mean, "wrong_after_mode": by_mode},
        figures=[
            report.figures.before_after(
                {"true": test[shown], "noisy": noisy[shown], "posterior mean": cleaned.mean[shown]},
                (8, 8),
            )
        ],
    )


def _features(book: _Book, energy, train, test, train_labels, test_labels) -> None:
    from sklearn.linear_model import LogisticRegression

    book.say("comparing features ...")

    def accuracy(of: Callable[[np.ndarray], np.ndarray]) -> float:
        model = LogisticRegression(max_iter=2000).fit(of(train), train_labels)
        return float(model.score(of(test), test_labels))

    raw = accuracy(lambda rows: rows)
    learned = accuracy(lambda rows: tasks.features(energy, rows))
    book.add(
        "Logistic regression: accuracy on test digits",
        [f"raw pixels {raw:.2%}, the RBM's {NUM_HIDDEN} hidden means {learned:.2%}"],
        {"accuracy_raw": raw, "accuracy_features": learned},
        figures=[
            report.figures.image_grid(np.asarray(energy.weight).T.reshape(-1, 8, 8), "filters")
        ],
    )


def ring_of_modes(x) -> jax.Array:
    """log density of 8 normals of sd 0.45 on a ring of radius 2.5, weights 1 to 8 (of 36)."""
    angle = 2 * jnp.pi * jnp.arange(8) / 8
    centres = 2.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    log_weights = jnp.log(jnp.arange(1.0, 9.0) / 36)
    squares = jnp.sum((x - centres) ** 2, 1)
    return jax.nn.logsumexp(log_weights - squares / (2 * 0.45**2)) - jnp.log(2 * jnp.pi * 0.45**2)


def _two_dimensions(book: _Book, key) -> None:
    book.say("the seed case in two dimensions ...")
    energy = energies.from_log_density(ring_of_modes, spaces.Real((2,)))
    angle = 2 * np.pi * np.arange(8) / 8
    weights = np.arange(1.0, 9.0) / 36
    truth = 2.5 * weights @ np.stack([np.cos(angle), np.sin(angle)], 1)
    z = partition.log_z(energy, key=key)
    book.judge("log Z of the ring", z)
    rows = [
        f"truth      mean ({truth[0]:+.3f}, {truth[1]:+.3f}), log Z 0",
        f"log Z = {z.value:.5f} ± {z.std_err:.1e} by {z.method}, {_verdict(z)}",
    ]
    data: dict[str, Any] = {"ring_log_z": z.value}
    paths = {}
    for name, sampler in (("Metropolis", samplers.Metropolis()), ("MALA", samplers.MALA())):
        options: dict[str, Any] = {"sampler": sampler, "num_steps": 20_000, "num_chains": 8}
        samplers.sample(energy, 4000, key=key, **options)  # compiles
        draws = samplers.sample(energy, 4000, key=key, **options)
        book.judge(f"{name} on the ring", draws)
        rate = float(draws.ess_bulk.min() / draws.seconds)
        rows.append(
            f"{name:10s} mean ({draws.mean[0]:+.3f} ± {draws.mcse_mean[0]:.3f}, "
            f"{draws.mean[1]:+.3f} ± {draws.mcse_mean[1]:.3f}), {rate:.0f} effective draws a "
            f"second, {_verdict(draws)}"
        )
        data[f"ring_{name.lower()}_ess_per_second"] = rate
        data[f"ring_{name.lower()}_mean"] = draws.mean
        paths[name] = draws
    book.add(
        "Eight modes in two dimensions: plain Metropolis, MALA and the truth",
        rows,
        data,
        figures=[report.figures.landscape(energy, paths)],
    )
