"""Where the work is done: one thread behind a short line, so that nothing piles up."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from energax.serve._base import Deadline, Refusal


class Lane:
    """One thread that works off requests in order, and a line of bounded length before it.

    What is compiled and running cannot be stopped: it keeps the thread until it ends, whether or
    not anybody still waits for it. Work whose time has passed before it began is left out.

    **Arguments:** `most`: requests in work and in line; the next one is refused with 429.
    """

    def __init__(self, name: str, most: int):
        self.name, self.most = name, most
        self.num_waiting = 0
        self._idle = threading.Event()
        self._idle.set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"energax-{name}")

    async def run(self, work: Callable[[], bytes], deadline: Deadline) -> bytes:
        """What `work` gives.

        **Raises:** Refusal where the line is full (429), and whatever `work` raises.
        """
        if self.num_waiting >= self.most:
            raise Refusal(
                429,
                f"{self.num_waiting} requests are in line for {self.name}, and no more are taken: "
                "wait, then ask again",
                {"Retry-After": "1"},
            )
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bytes] = loop.create_future()
        left = [work]

        def job() -> None:
            self._idle.clear()
            result: bytes | BaseException
            try:
                deadline.check()
                result = left.pop()() if left else b""
            except BaseException as error:
                result = error
            self._idle.set()
            with contextlib.suppress(RuntimeError):  # the service has ended meanwhile
                loop.call_soon_threadsafe(self._finish, waiter, result)

        self.num_waiting += 1
        self._pool.submit(job)
        try:
            return await waiter
        finally:
            left.clear()  # what nobody waits for holds no memory while it is in line

    def _finish(self, waiter: asyncio.Future[bytes], result: bytes | BaseException) -> None:
        self.num_waiting -= 1
        if waiter.done():  # cancelled: nobody waits any more
            return
        if isinstance(result, BaseException):
            waiter.set_exception(result)
        else:
            waiter.set_result(result)

    def close(self) -> None:
        """Takes no more work, and forgets what is in line; what runs may run on."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def is_idle(self, within: float) -> bool:
        """Whether nothing is running, after at most so many seconds."""
        return self._idle.wait(within)
