"""Commands that ask a trained run: `energax sample | logz | score | … RUN`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from energax import io
from energax.cli._base import (
    SETTINGS,
    Answer,
    BadInput,
    DataFile,
    Json,
    OutFile,
    Part,
    RunDir,
    Seed,
    Strict,
    app,
    key_of,
    load,
    out_file,
    read,
    rows_for,
    say,
    users_fault,
    writable,
)


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

    out_file(out)
    fitted, _ = load(run)
    draws = samplers.sample(fitted.energy, num, key=key_of(seed), progress=not as_json)
    io.write_data(out, draws.flat())
    Answer(
        [
            f"{num} draws by {draws.sampler} in {out}",
            f"smallest ESS {np.min(draws.ess_bulk):.0f}, largest R-hat {np.max(draws.rhat):.3f} "
            f"(limit {draws.rhat_limit:.3f}), acceptance {draws.acceptance:.2f}",
        ],
        {"out": str(out), "num": num, **draws.convergence()},
        draws.reliable,
        draws.reasons,
    ).finish(as_json=as_json, strict=strict)


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

    fitted, _ = load(run)
    with users_fault():
        z = partition.log_z(fitted.energy, key=key_of(seed), method=method, precision=precision)
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

    out_file(out)
    fitted, settings = load(run)
    rows = rows_for(fitted.energy, read(data, array))
    with users_fault():
        scores = tasks.score_samples(fitted.energy, rows, key=key_of(seed))
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
    models = {str(run): load(run)[0] for run in runs}
    first = next(iter(models.values())).energy
    with users_fault():
        rows = jobs.as_points(first.space, rows_for(first, read(data, array)))
        found = tasks.compare(
            models, rows, key=key_of(seed), baseline=None if baseline is None else str(baseline)
        )
    Answer(
        found.lines(),
        found.summary(),
        found.reliable,
        found.reasons,
    ).finish(as_json=as_json, strict=strict)


@app.command()
def denoise(
    run: RunDir,
    data: DataFile,
    out: OutFile,
    noise: Annotated[
        str,
        typer.Option(
            "--noise",
            help="flip:RATE on two values, gaussian:SD or poisson:PEAK on numbers, "
            "saltpepper:RATE on both",
        ),
    ] = "flip:0.1",
    mode: Annotated[bool, typer.Option("--mode", help="write modes instead of means")] = False,
    array: Part = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Remove noise of a stated kind from every row."""
    from energax import tasks

    out_file(out)
    fitted, _ = load(run)
    rows = rows_for(fitted.energy, read(data, array))
    with users_fault():
        method = "sampling" if mode else "auto"  # Tweedie's formula knows no mode
        result = tasks.denoise(fitted.energy, rows, _noise(noise), key=key_of(seed), method=method)
    io.write_data(out, result.mean if result.mode is None or not mode else result.mode)
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
        "poisson": tasks.PoissonNoise,
        "saltpepper": tasks.SaltAndPepper,
    }
    kind, _, size = text.partition(":")
    if kind not in kinds:
        raise ValueError(
            f"--noise {text}: expected flip:RATE, gaussian:SD, poisson:PEAK or saltpepper:RATE, "
            "such as flip:0.1"
        )
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

    out_file(out)
    fitted, _ = load(run)
    rows = rows_for(fitted.energy, read(data, array, missing=True))
    with users_fault():
        result = tasks.impute(fitted.energy, rows, key=key_of(seed))
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
    out_file(out)
    fitted, _ = load(run)
    with users_fault():
        values = tasks.features(fitted.energy, rows_for(fitted.energy, read(data, array)))
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
    fitted, _ = load(run)
    with users_fault():
        rows_x, rows_y = (rows_for(fitted.energy, read(path)) for path in (x, y))
        one_x, one_y = (rows[0] if len(rows) == 1 else rows for rows in (rows_x, rows_y))
        values = np.atleast_1d(tasks.log_ratio(fitted.energy, one_x, one_y))
    Answer(
        [f"{value:.6g}" for value in values],
        {"log_ratio": values},
    ).finish(as_json=as_json, strict=strict)


@app.command()
def report(
    run: RunDir,
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file to write (default: RUN/report.html)")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="while it trains: a page that follows, then the report")
    ] = False,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=0.0, help="the most to --watch for")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Write one self-contained HTML page on the run."""
    from energax import jobs
    from energax import report as pages

    if max_seconds is not None and not watch:
        raise BadInput("--max-seconds says how long to --watch for: give both or none")
    out = run / "report.html" if out is None else out
    if not (run / SETTINGS).is_file():  # before a page is written into what is no run
        load(run)
    writable(out)
    if watch:
        say(f"energax: watching {run}; open {out.resolve()} in a browser")
        with users_fault():
            end = pages.watch(run, out, max_seconds=max_seconds)
        if end != "ended":
            _tell_of_unfinished(run, out, end).finish(as_json=as_json, strict=strict)
            return
    fitted, settings = load(run)
    with users_fault():
        train_rows, test_rows = jobs.split_rows(settings)
    told = jobs.Settings(**settings)
    # of a stream only some rows are at hand, by no number of theirs
    numbers = None
    if not told.stream:
        _, numbers = jobs.split_numbers(len(train_rows) + len(test_rows), told)
    verdict = pages.write_run_report(
        out,
        fitted,
        train_rows,
        test_rows,
        key=key_of(seed),
        settings=settings,
        test_numbers=numbers,
    )
    Answer(
        [f"report: {out.resolve()}"],
        {"report": str(out.resolve()), "training": "ended"},
        verdict.reliable,
        verdict.reasons,
    ).finish(as_json=as_json, strict=strict)


def _tell_of_unfinished(run: Path, out: Path, end: str) -> Answer:
    """The answer where a watch was over before its training was."""
    again = f"`energax resume {run}` goes on from the last checkpoint"
    reason = {
        "interrupted": f"the training was interrupted: {again}",
        "failed": f"the training failed, see what it said itself: {again}",
        "lost": f"the process that trained is gone without a word: {again}",
        "running": "it was still training when the time to watch was up",
    }[end]
    lines = [f"page: {out.resolve()}"]
    return Answer(lines, {"report": str(out.resolve()), "training": end}, False, (reason,))
