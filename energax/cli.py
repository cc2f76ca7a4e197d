"""The command line: `energax demo | fit | sample | logz | score | ... RUN`.

Exit status: 0 done; 2 bad input or usage; 3 with --strict, done but unreliable; 1 input/output or
internal fault; 130 interrupted. With --json stdout carries one JSON object and nothing else.
"""

import contextlib
import dataclasses
import json
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from energax import io
from energax.results import UnreliableResult, plain

app = typer.Typer(
    name="energax",
    help="Energy-based models whose answers carry an error bar and a verdict.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DONE, FAULT, BAD_INPUT, UNRELIABLE, INTERRUPTED = 0, 1, 2, 3, 130

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="folder written by `energax fit`")]
DataFile = Annotated[Path, typer.Argument(metavar="DATA", help=".npy, .npz, .csv or .parquet")]
OutFile = Annotated[Path, typer.Option("--out", help="file to write: .npy, .npz, .csv, .parquet")]
Seed = Annotated[int, typer.Option("--seed", help="equal seeds give equal results")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Strict = Annotated[bool, typer.Option("--strict", help="exit 3 where the result is unreliable")]
Part = Annotated[str | None, typer.Option("--array", help="which array of an .npz holds the rows")]


class BadInput(Exception):
    """What the user gave cannot be used; the message says what was expected and what to do."""


@dataclasses.dataclass
class Answer:
    """What a command prints: lines for people, one object for --json, and the verdict."""

    lines: list[str]
    data: dict[str, Any]
    reliable: bool = True
    reasons: tuple[str, ...] = ()

    def finish(self, *, as_json: bool, strict: bool) -> None:
        if as_json:
            verdict = {"reliable": self.reliable, "reasons": list(self.reasons)}
            print(json.dumps(plain({**self.data, **verdict})))
        else:
            for line in self.lines:
                print(line)
            if not self.reliable:
                print("NOT RELIABLE: " + "; ".join(self.reasons))
        if strict and not self.reliable:
            raise typer.Exit(UNRELIABLE)


# ---- shared steps ----------------------------------------------------------------------------


def _read(path: Path, array: str | None = None, *, missing: bool = False) -> np.ndarray:
    """The rows of a data file; whatever is wrong with it is the user's to mend."""
    with _users_fault():
        return io.read_data(path, array=array, allow_missing=missing)


@contextlib.contextmanager
def _users_fault() -> Iterator[None]:
    """Turns errors about values, types and missing files into `BadInput`."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, IsADirectoryError, KeyError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        raise BadInput(str(text)) from error


def _load(run: Path):
    """(Fit, settings) of a run folder."""
    from energax import training

    if not (run / SETTINGS).is_file():
        raise BadInput(
            f"{run}: expected a folder written by `energax fit`, found no {SETTINGS} in it"
        )
    with _users_fault():
        settings = json.loads((run / SETTINGS).read_text())
        return training.load(run), settings


def _writable(path: Path, *, folder: bool = False) -> None:
    """Fails before the work starts if nothing can be written at `path`."""
    parent = path if folder else path.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=parent):
        pass


def _out_file(path: Path) -> None:
    if path.suffix not in io.WRITABLE:
        raise BadInput(f"--out {path}: expected a name ending in {', '.join(io.WRITABLE)}")
    _writable(path)


def _key(seed: int):
    from energax import random

    return random.key(seed)


SETTINGS = "run.json"

# ---- commands --------------------------------------------------------------------------------


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder to write")] = Path("energax-demo"),
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
    quick: Annotated[bool, typer.Option("--quick", help="a tenth of the training")] = False,
) -> None:
    """Train a model on handwritten digits, answer every question of it, and write a report."""
    from energax import demo as main_job

    _writable(out, folder=True)
    result = main_job.run(out, seed=seed, quick=quick, say=_say)
    report = (out / "report.html").resolve()
    Answer(
        [*result.lines, "", f"report: {report}"],
        {**result.data, "report": str(report)},
        result.reliable,
        result.reasons,
    ).finish(as_json=as_json, strict=strict)


@app.command()
def fit(
    data: DataFile,
    out: Annotated[Path, typer.Option("--out", help="run folder to write")],
    space: Annotated[
        str,
        typer.Option(
            help="auto, real, box:LOW:HIGH, binary, spin, categorical:K, ordinal:K or count"
        ),
    ] = "auto",
    model: Annotated[
        str, typer.Option(help="auto, rbm, ising, mlp, conv, independent or gaussian")
    ] = "auto",
    objective: Annotated[
        str, typer.Option(help="auto, likelihood, cd:K, pcd:K or moments")
    ] = "auto",
    array: Part = None,
    hidden: Annotated[int, typer.Option(help="hidden units of rbm, width of mlp")] = 64,
    num_steps: Annotated[int, typer.Option("--num-steps", min=1)] = 6000,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 100,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    test_fraction: Annotated[
        float, typer.Option("--test-fraction", min=0.0, max=0.9, help="rows held out")
    ] = 0.2,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=1)] = 500,
    early_stopping: Annotated[
        float | None,
        typer.Option(
            "--early-stopping",
            help="share of the training rows to watch: stops where their log-likelihood is best",
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Train a model on the rows of DATA."""
    from energax import jobs

    rows = _read(data, array)
    settings = jobs.Settings(
        data=str(data.resolve()),
        array=array,
        sha256=io.file_digest(data),
        space=space,
        model=model,
        objective=objective,
        hidden=hidden,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        test_fraction=test_fraction,
        checkpoint_every=checkpoint_every,
        seed=seed,
        early_stopping=early_stopping,
    )
    if (out / SETTINGS).exists():
        raise BadInput(f"--out {out} holds a run already: choose another folder, or `resume` it")
    with _users_fault():
        if early_stopping is not None and not 0 < early_stopping < 1:
            raise ValueError(
                f"--early-stopping {early_stopping}: expected a share of the rows between 0 and 1"
            )
        job = jobs.prepare(settings, rows)  # every check of the input, before anything is written
    _writable(out, folder=True)
    io.write_json(out / SETTINGS, dataclasses.asdict(job.settings))
    _finish_fit(out, job, as_json=as_json, strict=strict)


@app.command()
def resume(
    run: RunDir,
    seed: Annotated[int | None, typer.Option("--seed", help="must be the run's own")] = None,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Go on with an interrupted `fit`, from its last checkpoint to the same end bit for bit."""
    from energax import jobs

    if not (run / SETTINGS).is_file():
        raise BadInput(f"{run}: expected a folder of `energax fit`, found no {SETTINGS} in it")
    with _users_fault():
        settings = jobs.Settings(**json.loads((run / SETTINGS).read_text()))
    if seed not in (None, settings.seed):
        raise BadInput(f"--seed {seed}: this run was started with seed {settings.seed}")
    path = Path(settings.data)
    rows = _read(path, settings.array)
    if io.file_digest(path) != settings.sha256:
        raise BadInput(f"{path} has changed since the run was started: start a new run with `fit`")
    with _users_fault():
        job = jobs.prepare(settings, rows)
    _finish_fit(run, job, as_json=as_json, strict=strict)


def _finish_fit(out: Path, job, *, as_json: bool, strict: bool) -> None:
    try:
        with _users_fault():
            result = job.train(out, progress=not as_json)
    except KeyboardInterrupt:
        _say(f"energax: interrupted; go on from the last checkpoint by `energax resume {out}`")
        raise
    last = {k: float(v[-1]) for k, v in result.history.items() if len(v)}
    lines = [
        f"trained {type(result.energy).__name__} on {len(job.train_rows)} rows of {job.space}",
        f"steps {result.num_steps}, last "
        + ", ".join(f"{k} {v:.4g}" for k, v in last.items() if k != "step"),
        f"saved in {out}",
    ]
    data = {"run": str(out), "num_steps": result.num_steps, "last": last}
    stopping = result.early_stopping
    if stopping is not None:
        data["early_stopping"] = dataclasses.asdict(stopping)
        lines.insert(
            2,
            f"ended after {stopping.last_step} steps: {stopping.reason}; held-out log-likelihood "
            f"{stopping.log_likelihood:.4f} ± {stopping.std_err:.4f} (log Z) ± "
            f"{stopping.sampling_std_err:.4f} (rows) nat a row",
        )
    Answer(
        lines,
        data,
        result.reliable,
        result.reasons,
    ).finish(as_json=as_json, strict=strict)


@app.command()
def sample(
    run: RunDir,
    out: OutFile,
    num: Annotated[int, typer.Option("--num", min=1, help="number of draws")] = 1000,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Draw from the trained model."""
    from energax import samplers

    _out_file(out)
    fitted, _ = _load(run)
    draws = samplers.sample(fitted.energy, num, key=_key(seed), progress=not as_json)
    io.write_data(out, draws.flat())
    Answer(
        [
            f"{num} draws by {draws.sampler} in {out}",
            f"smallest ESS {np.min(draws.ess_bulk):.0f}, largest R-hat {np.max(draws.rhat):.3f} "
            f"(limit {draws.rhat_limit:.3f}), acceptance {draws.acceptance:.2f}",
        ],
        {"out": str(out), "num": num, **_diagnostics(draws)},
        draws.reliable,
        draws.reasons,
    ).finish(as_json=as_json, strict=strict)


def _diagnostics(draws) -> dict[str, Any]:
    return {
        "sampler": draws.sampler,
        "max_rhat": float(np.max(draws.rhat)),
        "rhat_limit": draws.rhat_limit,
        "min_ess_bulk": float(np.min(draws.ess_bulk)),
        "min_ess_tail": float(np.min(draws.ess_tail)),
        "acceptance": draws.acceptance,
        "num_evaluations": draws.num_evaluations,
    }


@app.command()
def logz(
    run: RunDir,
    method: Annotated[str, typer.Option("--method", help="auto, exact or ais")] = "auto",
    precision: Annotated[float, typer.Option("--precision", help="nats")] = 0.25,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Estimate log Z of the trained model, with its error and bracket."""
    from energax import partition

    fitted, _ = _load(run)
    with _users_fault():
        z = partition.log_z(fitted.energy, key=_key(seed), method=method, precision=precision)
    low, high = z.bracket
    Answer(
        [
            f"log Z = {z.value:.4f} ± {z.std_err:.4f} nat by {z.method}",
            f"95 % interval [{z.lower:.4f}, {z.upper:.4f}], bracket [{_number(low)}, "
            f"{_number(high)}]",
        ],
        z.summary(),
        z.reliable,
        z.reasons,
    ).finish(as_json=as_json, strict=strict)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


@app.command()
def score(
    run: RunDir,
    data: DataFile,
    out: OutFile,
    array: Part = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Log-likelihood and anomaly p-value of every row."""
    from energax import jobs, tasks

    _out_file(out)
    fitted, settings = _load(run)
    rows = _rows(fitted.energy, _read(data, array))
    with _users_fault():
        scores = tasks.score_samples(fitted.energy, rows, key=_key(seed))
        held_out = jobs.held_out_rows(settings)
        odd = tasks.anomaly_scores(fitted.energy, rows, held_out=held_out)
    table = {
        "log_prob": scores.log_prob,
        "std_err": scores.std_err,
        "energy": odd.scores,
        "p_value": odd.p_values,
    }
    io.write_data(out, table)
    mean = scores.mean()
    Answer(
        [
            f"mean log-likelihood {mean.value:.4f} ± {mean.std_err:.4f} nat a row "
            f"(log Z {mean.log_z_std_err:.4f}, finite rows {mean.sampling_std_err:.4f})",
            f"{int(np.sum(odd.p_values < 0.05))} of {len(rows)} rows have p < 0.05; in {out}",
        ],
        {
            "out": str(out),
            "num_rows": len(rows),
            "mean_log_prob": mean.value,
            "std_err": mean.std_err,
            "log_z_std_err": mean.log_z_std_err,
            "sampling_std_err": mean.sampling_std_err,
        },
        scores.reliable and odd.reliable,
        scores.reasons + odd.reasons,
    ).finish(as_json=as_json, strict=strict)


@app.command()
def compare(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN ...] DATA", help="run folders, then the rows")
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="the RUN to compare with (default: the best)")
    ] = None,
    array: Part = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Which run explains the rows of DATA best: differences of log-likelihood with intervals."""
    from energax import jobs, tasks

    if len(paths) < 2:
        raise BadInput("compare wants one RUN or more, and then DATA: give both")
    *runs, data = paths
    if len(set(runs)) < len(runs):
        raise BadInput("compare: a RUN was given twice")
    models = {str(run): _load(run)[0] for run in runs}
    first = next(iter(models.values())).energy
    with _users_fault():
        rows = jobs.as_points(first.space, _rows(first, _read(data, array)))
        found = tasks.compare(
            models, rows, key=_key(seed), baseline=None if baseline is None else str(baseline)
        )
    Answer(
        found.lines(),
        found.summary(),
        found.reliable,
        found.reasons,
    ).finish(as_json=as_json, strict=strict)


def _rows(energy, rows: np.ndarray) -> np.ndarray:
    """Rows as the energy's space wants them; a flat table is folded to the event shape."""
    shape = energy.space.shape
    if rows.ndim == 2 and len(shape) != 1 and rows.shape[1] == int(np.prod(shape)):
        rows = rows.reshape(-1, *shape)
    return rows


@app.command()
def denoise(
    run: RunDir,
    data: DataFile,
    out: OutFile,
    noise: Annotated[
        str, typer.Option("--noise", help="flip:RATE on two values, gaussian:SD on numbers")
    ] = "flip:0.1",
    mode: Annotated[bool, typer.Option("--mode", help="write modes instead of means")] = False,
    array: Part = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Remove noise of a stated kind from every row."""
    from energax import tasks

    _out_file(out)
    fitted, _ = _load(run)
    rows = _rows(fitted.energy, _read(data, array))
    with _users_fault():
        result = tasks.denoise(fitted.energy, rows, _noise(noise), key=_key(seed))
    io.write_data(out, result.mode if mode else result.mean)
    Answer(
        [f"{len(rows)} rows cleaned of {noise}, posterior {'modes' if mode else 'means'} in {out}"],
        {"out": str(out), "num_rows": len(rows), "noise": noise},
        result.reliable,
        result.reasons,
    ).finish(as_json=as_json, strict=strict)


def _noise(text: str):
    from energax import tasks

    kinds: dict[str, Callable[[float], Any]] = {
        "flip": tasks.BitFlip,
        "gaussian": tasks.GaussianNoise,
    }
    kind, _, size = text.partition(":")
    if kind not in kinds:
        raise ValueError(f"--noise {text}: expected flip:RATE or gaussian:SD, such as flip:0.1")
    try:
        return kinds[kind](float(size))
    except ValueError as error:
        raise ValueError(f"--noise {text}: {error}") from error


@app.command()
def impute(
    run: RunDir,
    data: DataFile,
    out: OutFile,
    array: Part = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Fill missing values (NaN, empty CSV cells) by their conditional means."""
    from energax import tasks

    _out_file(out)
    fitted, _ = _load(run)
    rows = _rows(fitted.energy, _read(data, array, missing=True))
    with _users_fault():
        result = tasks.impute(fitted.energy, rows, key=_key(seed))
    io.write_data(out, result.mean)
    missing = int(np.isnan(np.asarray(rows, float)).sum())
    Answer(
        [f"{missing} missing values filled in {len(rows)} rows, in {out}"],
        {"out": str(out), "num_rows": len(rows), "num_missing": missing},
        result.reliable,
        result.reasons,
    ).finish(as_json=as_json, strict=strict)


@app.command()
def features(
    run: RunDir,
    data: DataFile,
    out: OutFile,
    array: Part = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Hidden-unit means of every row."""
    from energax import tasks

    del seed  # features are deterministic; the option is there because every command has it
    _out_file(out)
    fitted, _ = _load(run)
    with _users_fault():
        values = tasks.features(fitted.energy, _rows(fitted.energy, _read(data, array)))
    io.write_data(out, values)
    Answer(
        [f"{values.shape[1]} features of {values.shape[0]} rows in {out}"],
        {"out": str(out), "num_rows": values.shape[0], "num_features": values.shape[1]},
    ).finish(as_json=as_json, strict=strict)


@app.command()
def ratio(
    run: RunDir,
    x: Annotated[Path, typer.Argument(metavar="X")],
    y: Annotated[Path, typer.Argument(metavar="Y")],
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """log p(x) − log p(y), row by row of two files (either may hold one row); no Z is needed."""
    from energax import tasks

    del seed  # exact; the option is there because every command has it
    fitted, _ = _load(run)
    with _users_fault():
        rows_x, rows_y = (_rows(fitted.energy, _read(path)) for path in (x, y))
        one_x, one_y = (rows[0] if len(rows) == 1 else rows for rows in (rows_x, rows_y))
        values = np.atleast_1d(tasks.log_ratio(fitted.energy, one_x, one_y))
    Answer(
        [f"{value:.6g}" for value in values],
        {"log_ratio": values},
    ).finish(as_json=as_json, strict=strict)


@app.command()
def report(
    run: RunDir,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write")],
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Write one self-contained HTML page on the run."""
    from energax import jobs
    from energax import report as pages

    _writable(out)
    fitted, settings = _load(run)
    with _users_fault():
        train_rows, test_rows = jobs.split_rows(settings)
    verdict = pages.write_run_report(
        out, fitted, train_rows, test_rows, key=_key(seed), settings=settings
    )
    Answer(
        [f"report: {out.resolve()}"],
        {"report": str(out.resolve())},
        verdict.reliable,
        verdict.reasons,
    ).finish(as_json=as_json, strict=strict)


# ---- the way in ------------------------------------------------------------------------------


def _say(text: str) -> None:
    """Progress goes to stderr, so that stdout stays the answer."""
    print(text, file=sys.stderr, flush=True)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    _say(f"warning: {message}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with its status."""
    warnings.showwarning = _show_warning
    warnings.simplefilter("ignore", UnreliableResult)  # the answer itself says so
    if arguments is None:  # a process of its own, whose settings nobody else has
        _keep_compilations()
    sys.exit(_status(sys.argv[1:] if arguments is None else arguments))


def _keep_compilations() -> None:
    """Has JAX keep what it compiles in the user's cache folder, for the next command.

    Each machine has a folder of its own, as a home may be shared between unlike processors. The
    user's own JAX_COMPILATION_CACHE_DIR goes first, "" to have none; a folder that cannot be
    written is done without.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "energax" / (platform.node() or "here")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home
        return
    if not os.access(folder, os.W_OK):
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _status(arguments: list[str]) -> int:
    try:
        status = app(args=arguments or ["--help"], standalone_mode=False)
        return status if isinstance(status, int) else DONE
    except BadInput as error:
        _say(f"energax: {error}")
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _say(f"energax: {error.strerror or error}{where}")
        return FAULT
    except Exception as error:
        usage = getattr(error, "format_message", None)  # Typer's own errors carry it
        if usage is not None:
            command = " ".join(arguments[:1])
            _say(f"energax: {usage()} (see `energax {command} --help`)")
            return BAD_INPUT
        if os.environ.get("ENERGAX_TRACEBACK"):
            raise
        first_line = (str(error).splitlines() or [""])[0]
        _say(
            f"energax: internal fault, {type(error).__name__}: {first_line} "
            "(ENERGAX_TRACEBACK=1 shows where)"
        )
        return FAULT


if __name__ == "__main__":
    main()
