"""The application: which question goes where, and what every answer and refusal looks like."""

import asyncio
import contextlib
import functools
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from energax.serve import page
from energax.serve._base import (
    Deadline,
    DenoiseRequest,
    Health,
    Refusal,
    Refused,
    SampleRequest,
    ScoreRequest,
    read_request,
)
from energax.serve.lanes import Lane
from energax.serve.model import Model
from energax.serve.server import is_loopback

_IN_LINE, _SLOW_IN_LINE = 64, 8
_BODIES = 8  # of the largest size, that may be in memory at once
_NOTHING_ELSE = "default-src 'none'; style-src 'unsafe-inline'"  # is loaded by the page


def create_app(model: Model, *, any_host: bool = False) -> Starlette:
    """The service as an ASGI application.

    **Arguments:** `any_host`: whether requests may name another host than this machine. By default
    they may not, so that no web page can reach the service through a name of its own that it has
    point here (DNS rebinding).
    """
    service = _Service(model)
    gate = [] if any_host else [Middleware(_LocalOnly)]
    app = Starlette(
        routes=[
            Route("/score", service.score, methods=["POST"]),
            Route("/denoise", service.denoise, methods=["POST"]),
            Route("/sample", service.sample, methods=["POST"]),
            Route("/health", service.health, methods=["GET"]),
            Route("/model", service.about, methods=["GET"]),
            Route("/openapi.json", service.openapi, methods=["GET"]),
            Route("/docs", service.docs, methods=["GET"]),
            Route("/", _to_docs, methods=["GET"]),
        ],
        middleware=gate,
        exception_handlers={
            Refusal: _told,
            HTTPException: _told,
            ClientDisconnect: _told,
        },
        lifespan=service.lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


class _Service:
    """The endpoints. `fast` scores; `slow` does what takes seconds, so that scores need not wait
    for it."""

    def __init__(self, model: Model):
        self.model, self.limits = model, model.limits
        self.fast, self.slow = Lane("scores", _IN_LINE), Lane("chains", _SLOW_IN_LINE)
        self.start = time.monotonic()
        self.num_requests = self.num_refused = self.num_held = 0
        self._clocks: set[asyncio.Timeout] = set()
        self._ends = False
        about = model.about()
        self._about = msgspec.json.encode(about)
        document = page.openapi(about, self.limits)
        self._openapi, self._docs = msgspec.json.encode(document), page.html(document)

    @property
    def lanes(self) -> tuple[Lane, Lane]:
        return self.fast, self.slow

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        for lane in self.lanes:
            lane.close()

    def end(self) -> None:
        """Answers at once whoever still waits: the service ends."""
        self._ends = True
        for clock in self._clocks:
            if not clock.expired():
                clock.reschedule(asyncio.get_running_loop().time())

    def is_idle(self, within: float) -> bool:
        """Whether no work is running, after at most so many seconds."""
        return all(lane.is_idle(within) for lane in self.lanes)

    async def score(self, request: Request) -> Response:
        return await self._asked(request, self.fast, ScoreRequest, self.model.score)

    async def denoise(self, request: Request) -> Response:
        return await self._asked(request, self.slow, DenoiseRequest, self.model.denoise)

    async def sample(self, request: Request) -> Response:
        return await self._asked(request, self.slow, SampleRequest, self.model.sample)

    async def health(self, request: Request) -> Response:
        return _json(
            msgspec.json.encode(
                Health(
                    status="ok",
                    seconds=time.monotonic() - self.start,
                    num_requests=self.num_requests,
                    num_refused=self.num_refused,
                    waiting={lane.name: lane.num_waiting for lane in self.lanes},
                )
            )
        )

    async def about(self, request: Request) -> Response:
        return _json(self._about)

    async def openapi(self, request: Request) -> Response:
        return _json(self._openapi)

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(self._docs, headers={"Content-Security-Policy": _NOTHING_ELSE})

    async def _asked(
        self, request: Request, lane: Lane, kind: type[Any], answer: Callable[[Any, Deadline], Any]
    ) -> Response:
        """Reads a request, has it answered in `lane`, and writes the answer, all but the reading of
        bytes in the lane's thread."""
        self.num_requests += 1
        deadline = Deadline(self.limits.max_seconds)

        def work(body: bytes) -> bytes:
            asked = read_request(kind, body, self.limits, self.model.num_columns)
            return msgspec.json.encode(answer(asked, deadline))

        body, held = None, [0]
        clock = asyncio.timeout(deadline.left)
        try:
            _check_type(request)
            self._clocks.add(clock)
            async with clock:
                body = await self._body(request, held)
                answered = await lane.run(functools.partial(work, body), deadline)
            return _json(answered)
        except TimeoutError:
            self.num_refused += 1
            raise self._late(deadline, None if body is not None else held[0]) from None
        except (Refusal, ClientDisconnect):
            self.num_refused += 1
            raise
        except Exception as error:
            self.num_refused += 1
            _report(error)
            raise Refusal(
                500, "internal fault, and not of the request; the service's stderr says more"
            ) from None
        finally:
            self._clocks.discard(clock)
            self.num_held -= held[0]

    def _late(self, deadline: Deadline, received: int | None) -> Refusal:
        """Why a request has no answer in time; `received`: bytes of a body that is not whole."""
        if self._ends:
            return Refusal(503, "the service was told to end")
        if received is None:
            return deadline.refusal()
        return Refusal(
            408,
            f"expected a whole body within {deadline.seconds:g} s (--max-seconds), got "
            f"{received:,} bytes of it; is Content-Length right?",
            {"Connection": "close"},
        )

    async def _body(self, request: Request, held: list[int]) -> bytes:
        """The body; what it holds is added to `held` as it comes."""
        most = self.limits.max_body
        length = request.headers.get("content-length", "0")
        if not length.isdecimal():
            raise Refusal(400, f"Content-Length: expected a whole number, got {length}")
        if len(length) > 18 or int(length) > most:
            raise Refusal(413, f"expected at most {most:,} bytes (--max-body), got {length}")
        parts = []
        async for part in request.stream():
            held[0] += len(part)
            self.num_held += len(part)
            if held[0] > most:
                raise Refusal(413, f"expected at most {most:,} bytes (--max-body), got more")
            if self.num_held > _BODIES * most:
                raise Refusal(429, "too many large requests at once", {"Retry-After": "1"})
            parts.append(part)
        return b"".join(parts)


def _check_type(request: Request) -> None:
    kind, _, parameters = request.headers.get("content-type", "none").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        got = request.headers.get("content-type", "none")
        raise Refusal(415, f"expected Content-Type: application/json, in UTF-8, got {got}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise Refusal(415, f"expected a body that is not compressed, got {coding}")


async def _to_docs(request: Request) -> Response:
    return RedirectResponse("/docs")


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _refused(refusal: Refusal) -> Response:
    return Response(
        msgspec.json.encode(Refused(refusal.status, refusal.reason)),
        refusal.status,
        refusal.headers,
        media_type="application/json",
    )


async def _told(request: Request, error: Exception) -> Response:
    """A refusal as JSON, whoever refused."""
    if isinstance(error, Refusal):
        return _refused(error)
    if isinstance(error, HTTPException):
        routes = [route for route in request.app.routes if isinstance(route, Route)]
        known = ", ".join(f"{min(route.methods or ())} {route.path}" for route in routes)
        wanted = f"expected one of {known}"
        got = f"{request.method} {request.scope['path']}"
        return _refused(Refusal(error.status_code, f"{wanted}; got {got}", error.headers))
    return _refused(Refusal(400, "the client left before its body was whole"))


def _report(error: Exception) -> None:
    """An internal fault, on stderr."""
    if os.environ.get("ENERGAX_TRACEBACK"):
        traceback.print_exception(error, file=sys.stderr)
    first = (str(error).splitlines() or [""])[0]
    print(
        f"energax: internal fault, {type(error).__name__}: {first} "
        "(ENERGAX_TRACEBACK=1 shows where)",
        file=sys.stderr,
        flush=True,
    )


class _LocalOnly:
    """Lets through what names this machine as its host."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"localhost").decode("latin-1")
            if not _names_this_machine(host):
                wanted = "expected a Host of this machine, such as 127.0.0.1"
                await _refused(Refusal(421, f"{wanted}, got {host}"))(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or is_loopback(name)
