"""The command that stays: `energax serve RUN`, a trained run as a service on this machine."""

import sys
from typing import Annotated

import typer

from energax.cli._base import (
    DONE,
    UNRELIABLE,
    Answer,
    BadInput,
    Json,
    RunDir,
    Seed,
    Strict,
    app,
    leave,
    load,
    say,
    users_fault,
)


@app.command()
def serve(
    run: RunDir,
    host: Annotated[
        str, typer.Option("--host", help="127.0.0.1, ::1 or localhost; others want --expose")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes a free one")
    ] = 8000,
    expose: Annotated[
        bool,
        typer.Option("--expose", help="allow a --host that others reach, without any password"),
    ] = False,
    max_body: Annotated[
        int, typer.Option("--max-body", min=1, help="bytes of a request")
    ] = 8_388_608,
    max_rows: Annotated[int, typer.Option("--max-rows", min=1, help="rows of a request")] = 10_000,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", help="a request may take, all in all")
    ] = 30.0,
    max_lifetime: Annotated[
        float | None,
        typer.Option("--max-lifetime", min=0.0, help="seconds until it ends by itself"),
    ] = None,
    with_log_z: Annotated[
        bool, typer.Option("--log-z/--no-log-z", help="whether log Z is estimated at the start")
    ] = True,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Answer scores, cleaned rows and draws as JSON over HTTP, until Ctrl-C or SIGTERM."""
    from energax import jobs

    try:
        from energax import serve as room
    except ImportError as error:
        raise BadInput(f"serve needs {error.name}: pip install 'energax[serve]'") from error
    if max_lifetime is not None and not max_lifetime < float("inf"):
        raise BadInput(f"--max-lifetime: expected a number of seconds, got {max_lifetime}")
    with users_fault():
        limits = room.Limits(max_body, max_rows, max_seconds)
        sock = room.bind(host, port, expose=expose)
    with sock:
        fitted, settings = load(run)
        try:
            held_out = jobs.held_out_rows(settings)
        except ValueError as error:
            held_out = f"no p-values: {error}"
            say(f"warning: {held_out}")
        with users_fault():
            model = room.Model(
                fitted,
                seed=seed,
                held_out=held_out,
                with_log_z=with_log_z,
                limits=limits,
                say=say,
            )
        reasons = (*(f"training: {reason}" for reason in fitted.reasons), *model.verdict.reasons)
        url = room.url_of(sock)
        answer = Answer(
            [f"{run} is served at {url}, described at {url}/docs; Ctrl-C ends it"],
            {"url": url, "run": str(run), "num_columns": model.num_columns},
            fitted.reliable and model.verdict.reliable,
            reasons,
        )
        if strict and not answer.reliable:
            say("energax: not served, as it is not reliable (--strict): " + "; ".join(reasons))
            raise typer.Exit(UNRELIABLE)
        service = room.create_app(model, any_host=expose)

        def started() -> None:
            answer.finish(as_json=as_json, strict=False)
            sys.stdout.flush()

        ended = room.run(service, sock, max_lifetime=max_lifetime, on_start=started)
    say("the service has ended")
    if not ended:  # what is compiled and running cannot be stopped
        leave(DONE)
