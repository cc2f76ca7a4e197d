"""The server that runs an application until it is told to end, on this machine alone."""

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

GRACE_SECONDS = 5  # for requests in work when the service is told to end
_CONNECTIONS = 256
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def is_loopback(address: str) -> bool:
    """Whether a numeric address is of this machine alone."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int, *, expose: bool = False) -> socket.socket:
    """A socket on `host` and `port` (0: a free one), on which nobody is listened to yet.

    **Raises:** ValueError for a host that is unknown, or not this machine alone unless `expose`;
    OSError where the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"--host {host}: no such host: {error}") from error
    if not expose and not all(is_loopback(str(address[0])) for *_, address in found):
        raise ValueError(
            f"--host {host}: expected 127.0.0.1, ::1 or localhost, as the service asks nobody who "
            "they are and encrypts nothing: whoever reaches the port can use the model and this "
            "machine's time. Put a proxy that does both before it; if everyone who can reach "
            f"{host} may use it, add --expose"
        )
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        why = f"{error.strerror}: {host}, port {port} (--port 0 takes a free one)"
        raise OSError(error.errno, why) from error
    return sock


def url_of(sock: socket.socket) -> str:
    """http://HOST:PORT."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: Starlette,
    sock: socket.socket,
    *,
    max_lifetime: float | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> bool:
    """Serves an app of `create_app` on `sock` until Ctrl-C, SIGTERM, or for `max_lifetime` seconds.

    Requests in work then have `GRACE_SECONDS` to end. For a process's main thread, which has the
    signals. `on_start` is called when the first request can come.

    **Returns:** whether all work has ended. Compiled work that runs on cannot be stopped, and would
    have the process wait for it.
    """

    service = app.state.service

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            if max_lifetime is not None:
                asyncio.get_running_loop().call_later(max_lifetime, self._end)
            on_start()

        def _end(self) -> None:
            self.should_exit = True

        async def shutdown(self, sockets=None):
            asyncio.get_running_loop().call_later(GRACE_SECONDS, service.end)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http="h11",  # bounds what a client may send before its request is complete
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=2 * GRACE_SECONDS,
    )
    # uvicorn raises the signals that ended it once more when it has ended; here they are done with.
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        Server(config).run(sockets=[sock])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return service.is_idle(within=1.0)
