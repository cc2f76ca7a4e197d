"""`EarlyStopping`: what to watch, how often, and how long to wait."""

import dataclasses
import hashlib
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from energax.spaces import Point, num_rows
from energax.training._base import whole


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Ends a training where the log-likelihood of held-out rows gets no better (`fit`).

    log p = f − log Z needs log Z at every look. It is summed where that is cheap; else a population
    of 128 points goes along with the parameters and weighs every move of theirs (annealed
    importance sampling along the training's own way; see `energax.training.stopping._base` for the
    sources), which costs a fixed share of the training's energy evaluations. Its standard error is
    known at every look. Where it passes `max_std_err`, looks do not count until a new population
    has been annealed from a base, as soon as the allowance pays for that.

    **Arguments:**

    - `held_out`: rows (rows, *event) to watch, or the share of the data's rows to hold out, such as
      0.1. At most 2000 of them are looked at.
    - `every`: updates between looks; None takes a fiftieth of the run, or more where the energies
      of the rows would cost more than 3/10 of the allowance.
    - `patience`: looks without a better likelihood that end the training.
    - `min_delta`: nats by which a likelihood must be better.
    - `share`: the allowance, a share of the training's energy evaluations (a gradient counts as
      one, as everywhere).
    - `max_std_err`: of log Z, in nats, beyond which a look is not trusted.

    **Raises:** ValueError for values out of range.
    """

    held_out: Any = 0.1
    every: int | None = None
    patience: int = 10
    min_delta: float = 0.0
    share: float = 0.1
    max_std_err: float = 0.25

    def __post_init__(self):
        counts = {"patience": self.patience}
        counts |= {} if self.every is None else {"every": self.every}
        for name, given in counts.items():
            whole(f"EarlyStopping: {name}", given)
        if self.is_share and not 0 < self.held_out < 1:
            raise ValueError(
                f"EarlyStopping: held_out: expected rows, or a share of the rows between 0 and 1, "
                f"got {self.held_out}"
            )
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(
                f"EarlyStopping: min_delta: expected a number from 0, got {self.min_delta}"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"EarlyStopping: share: expected one above 0 to 1, got {self.share}")
        if not self.max_std_err > 0:
            raise ValueError(
                f"EarlyStopping: max_std_err: expected a positive number, got {self.max_std_err}"
            )

    @staticmethod
    def of(given: "float | EarlyStopping") -> "EarlyStopping":
        """`fit`'s argument: a share of the rows is short for `EarlyStopping(share)`."""
        return given if isinstance(given, EarlyStopping) else EarlyStopping(given)

    @property
    def is_share(self) -> bool:
        return isinstance(self.held_out, (int, float, np.number)) and np.ndim(self.held_out) == 0

    def split(self, space: Any, rows: Point, *, key: Key[Array, ""]) -> tuple[Point, Point]:
        """(rows to train on, rows to watch), both validated."""
        if not self.is_share:
            held = space.validate(self.held_out, batch=True, name="early_stopping.held_out")
            return rows, held
        total = num_rows(rows)
        num = round(self.held_out * total)
        if num < 1 or total - num < 1:
            raise ValueError(
                f"EarlyStopping: a share of {self.held_out} of {total} row(s) leaves {num} to "
                f"watch and {total - num} to train on: at least one of each is needed"
            )
        order = np.asarray(jax.random.permutation(key, total))
        chosen, rest = np.sort(order[:num]), np.sort(order[num:])
        return tuple(jax.tree.map(lambda a, i=i: a[i], rows) for i in (rest, chosen))  # type: ignore[return-value]

    def settings(self, held: Point, every: int) -> dict[str, Any]:
        """What a resumed run must agree with, as plain data."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(held):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        told = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        told["held_out"] = float(self.held_out) if self.is_share else None
        return {**told, "every": every, "held_out_sha256": digest.hexdigest()}

    @staticmethod
    def from_settings(told: dict[str, Any]) -> "EarlyStopping | None":
        """The inverse of `settings`; None where the rows were given, which no file keeps."""
        if told["held_out"] is None:
            return None
        return EarlyStopping(**{k: v for k, v in told.items() if k != "held_out_sha256"})
