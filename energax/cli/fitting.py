"""Commands that train: `energax demo | fit | resume`."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from energax.cli._base import (
    SETTINGS,
    Answer,
    BadInput,
    Coordinator,
    Hosts,
    Json,
    NumProcesses,
    Part,
    ProcessId,
    RunDir,
    Seed,
    Strict,
    app,
    is_worker,
    meet,
    read_settings,
    say,
    users_fault,
    writable,
    write_settings,
)

Live = Annotated[
    bool, typer.Option("--live", help="write report.html every ten seconds while it trains")
]
Board = Annotated[bool, typer.Option("--tensorboard", help="write event files, too")]


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

    writable(out, folder=True)
    result = main_job.run(out, seed=seed, quick=quick, say=say)
    report = (out / "report.html").resolve()
    Answer(
        [*result.lines, "", f"report: {report}"],
        {**result.data, "report": str(report)},
        result.reliable,
        result.reasons,
    ).finish(as_json=as_json, strict=strict)


@app.command()
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help=".npy, .npz, .csv or .parquet; with --stream also a folder of images",
        ),
    ],
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
        str,
        typer.Option(
            help="auto, likelihood, cd:K, pcd:K, replay:K, improved:K, recovery:K, "
            "pseudolikelihood, ratio, flow, concrete, score, sliced:K, denoising, multiscale, "
            "equilibrium, transport, nce:K, conditional-nce:K, discrepancy:K or moments"
        ),
    ] = "auto",
    l1: Annotated[float, typer.Option(min=0.0, help="L1 penalty on weights and couplings")] = 0.0,
    l2: Annotated[float, typer.Option(min=0.0, help="L2 penalty on weights and couplings")] = 0.0,
    energy_penalty: Annotated[
        float, typer.Option("--energy-penalty", min=0.0, help="of squared energies, such as 0.01")
    ] = 0.0,
    optimizer: Annotated[
        str, typer.Option(help="adam, or lbfgs: all rows a step, for objectives without chance")
    ] = "adam",
    array: Part = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="read the rows bit by bit: they need not fit into memory"),
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(
            "--window", min=1, help="rows at a time, with --stream (default: 64 MB of them)"
        ),
    ] = None,
    hidden: Annotated[int, typer.Option(help="hidden units of rbm, width of mlp")] = 64,
    num_steps: Annotated[int, typer.Option("--num-steps", min=1)] = 6000,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 100,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    clip: Annotated[
        float | None, typer.Option("--clip", help="shorten gradients to this norm at the most")
    ] = None,
    spectral_norm: Annotated[
        float | None,
        typer.Option("--spectral-norm", help="the largest singular value of weight matrices"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="T of p = exp(f/T)/Z, for mlp and conv, such as 0.1"),
    ] = None,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="after trouble go back and on with a lower learning rate, up to 5 times",
        ),
    ] = False,
    test_fraction: Annotated[
        float, typer.Option("--test-fraction", min=0.0, max=0.9, help="rows held out")
    ] = 0.2,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=1)] = 500,
    keep_checkpoints: Annotated[
        int, typer.Option("--keep-checkpoints", min=1, help="how many of the last ones stay")
    ] = 3,
    keep_best: Annotated[
        int | None,
        typer.Option(
            "--keep-best",
            min=1,
            help="as many of the best by the log-likelihood of --early-stopping stay, too",
        ),
    ] = None,
    early_stopping: Annotated[
        float | None,
        typer.Option(
            "--early-stopping",
            help="share of the training rows to watch: stops where their log-likelihood is best",
        ),
    ] = None,
    live: Live = False,
    tensorboard: Board = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Train a model on the rows of DATA."""
    from energax import jobs

    hosts = Hosts.of(coordinator, num_processes, process_id)
    if (hosts is None or not is_worker()) and (out / SETTINGS).exists():
        raise BadInput(f"--out {out} holds a run already: choose another folder, or `resume` it")
    leads = meet(hosts, out)
    with users_fault():
        rows = jobs.read_rows(data, array, stream)
    settings = jobs.Settings(
        data=str(data.resolve()),
        array=array,
        sha256=jobs.digest_of(data, rows),
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
        l1=l1,
        l2=l2,
        optimizer=optimizer,
        clip=clip,
        recover=recover,
        energy_penalty=energy_penalty,
        spectral_norm=spectral_norm,
        temperature=temperature,
        keep_checkpoints=keep_checkpoints,
        keep_best=keep_best,
        stream=stream,
        window=window,
    )
    with users_fault():
        if early_stopping is not None and not 0 < early_stopping < 1:
            raise ValueError(
                f"--early-stopping {early_stopping}: expected a share of the rows between 0 and 1"
            )
        job = jobs.prepare(settings, rows)  # every check of the input, before anything is written
    if leads:
        writable(out, folder=True)
        write_settings(out, dataclasses.asdict(job.settings))
    telling = Telling(live, tensorboard)
    _train(out, job, leads, telling, as_json=as_json, strict=strict)


@app.command()
def resume(
    run: RunDir,
    best: Annotated[
        bool,
        typer.Option(
            "--best", help="go on from the best checkpoint kept, and give up all later ones"
        ),
    ] = False,
    live: Live = False,
    tensorboard: Board = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    seed: Annotated[int | None, typer.Option("--seed", help="must be the run's own")] = None,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Go on with an interrupted `fit`, from its last checkpoint to the same end bit for bit."""
    from energax import jobs

    if not (run / SETTINGS).is_file():
        raise BadInput(f"{run}: expected a folder of `energax fit`, found no {SETTINGS} in it")
    leads = meet(Hosts.of(coordinator, num_processes, process_id), run)
    told = read_settings(run)
    try:
        settings = jobs.Settings(**told)
    except TypeError as error:
        raise BadInput(f"{run / SETTINGS} is not of this energax, or damaged: {error}") from error
    if seed not in (None, settings.seed):
        raise BadInput(f"--seed {seed}: this run was started with seed {settings.seed}")
    path = Path(settings.data)
    with users_fault():
        rows = jobs.read_rows(path, settings.array, settings.stream)
    if jobs.digest_of(path, rows) != settings.sha256:
        raise BadInput(f"{path} has changed since the run was started: start a new run with `fit`")
    with users_fault():
        job = jobs.prepare(settings, rows)
    which = "best" if best else "last"
    told_before = None
    if tensorboard:
        from energax.training import step_to_go_on_from

        told_before = step_to_go_on_from(run / jobs.CHECKPOINTS, which)
    telling = Telling(live, tensorboard, told_before)
    _train(run, job, leads, telling, which, as_json=as_json, strict=strict)


@dataclasses.dataclass(frozen=True)
class Telling:
    """What a training writes while it runs, beside its progress: a page, and events for
    TensorBoard; `told_before` is the step up to which a run that goes on has its events."""

    live: bool
    tensorboard: bool
    told_before: int | None = None


@contextlib.contextmanager
def _callback(out: Path, num_steps: int, telling: Telling) -> Iterator[Any]:
    """The callback of a training in `out` that writes what is to be seen of it while it runs."""
    from energax import jobs
    from energax.training import ProgressFile

    with contextlib.ExitStack() as open_files:
        told = ProgressFile(out / jobs.PROGRESS, num_steps=num_steps)
        called: list[Any] = [open_files.enter_context(told)]
        if telling.live:
            from energax.report import LiveReport

            called.append(open_files.enter_context(LiveReport(out / "report.html", str(out))))
        if telling.tensorboard:
            from energax.training import TensorBoard

            before = telling.told_before
            first_step = None if before is None else before + 1
            board = TensorBoard(out / "tensorboard", first_step=first_step)
            called.append(open_files.enter_context(board))

        def callback(step, metrics):
            for each in called:
                each(step, metrics)

        yield callback


def _train(
    out: Path,
    job,
    leads: bool,
    telling: Telling,
    which: str = "last",
    *,
    as_json: bool,
    strict: bool,
) -> None:
    progress = leads and not as_json
    if job.memory is not None and leads:
        say(f"energax: {job.memory}")
    try:
        with contextlib.ExitStack() as open_files, users_fault():
            callback = None
            if leads:
                told = _callback(out, job.settings.num_steps, telling)
                callback = open_files.enter_context(told)
            result = job.train(out, progress=progress, callback=callback, leads=leads, which=which)
    except KeyboardInterrupt:
        if leads:
            say(f"energax: interrupted; go on from the last checkpoint by `energax resume {out}`")
        raise
    last = {
        k: float(v[-1])
        for k, v in result.history.items()
        if len(v) and not k.startswith(("recovery", "checkpoint"))
    }
    lines = [
        f"trained {type(result.energy).__name__} on {job.num_train} rows of {job.space}",
        f"steps {result.num_steps}, last "
        + ", ".join(f"{k} {v:.4g}" for k, v in last.items() if k != "step"),
        f"saved in {out}",
    ]
    lines[1:1] = [f"recovered: {each}" for each in result.recoveries]
    told = [dataclasses.asdict(each) for each in result.recoveries]
    data = {"run": str(out), "num_steps": result.num_steps, "last": last, "recoveries": told}
    data["num_rows"] = job.num_train
    stopping = result.early_stopping
    if stopping is not None:
        data["early_stopping"] = dataclasses.asdict(stopping)
        lines.insert(
            len(lines) - 1,
            f"ended after {stopping.last_step} steps: {stopping.reason}; held-out log-likelihood "
            f"{stopping.log_likelihood:.4f} ± {stopping.std_err:.4f} (log Z) ± "
            f"{stopping.sampling_std_err:.4f} (rows) nat a row",
        )
    if job.settings.keep_best is not None:
        data["best"] = [dataclasses.asdict(each) for each in result.best]
        told = ", ".join(f"step {each.step} ({each.score:.4f})" for each in result.best) or "none"
        lines.insert(len(lines) - 1, f"best checkpoints, by held-out log-likelihood: {told}")
    answer = Answer(lines, data, result.reliable, result.reasons)
    answer.finish(as_json=as_json, strict=strict, quiet=not leads)
