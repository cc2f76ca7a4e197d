"""What one request may cost, and how the service says no."""

import dataclasses
import time
from collections.abc import Mapping

_SHOWN = 300  # characters of a reason, which may hold what the client sent


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may cost.

    - `max_body`: bytes; `max_rows`: rows sent or asked for; `max_seconds`: from its first line to
      its answer.

    **Raises:** ValueError for a limit that nothing could keep.
    """

    max_body: int = 8 * 2**20
    max_rows: int = 10_000
    max_seconds: float = 30.0

    def __post_init__(self):
        for name in ("max_body", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.max_seconds <= 86_400:
            raise ValueError(
                f"max_seconds: expected more than 0 and at most 86400, got {self.max_seconds:g}"
            )


class Refusal(Exception):
    """A request that is not answered: a status of HTTP and a reason in plain words."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None):
        reason = reason if len(reason) <= _SHOWN else f"{reason[:_SHOWN]} ..."
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


class Deadline:
    """When a request must have its answer; the clock starts now."""

    def __init__(self, seconds: float):
        self.seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises Refusal once it has passed."""
        if not self.left:
            raise self.refusal()

    def refusal(self) -> Refusal:
        return Refusal(
            503,
            f"no answer within {self.seconds:g} s (--max-seconds): ask for less at once, or again "
            "when there is less to do",
            {"Retry-After": "1"},
        )
