"""A named mix of spaces: a row of a table."""

import math
from typing import Any

import jax

from energax.spaces._base import (
    AbstractArraySpace,
    AbstractSpace,
)


class Record(AbstractSpace):
    """A named mix of spaces: x is a dict with one entry a part.

    `Record(age=Real(()), smoker=Binary((1,)))`; parts may not be records themselves.
    """

    parts: dict[str, AbstractArraySpace]

    def __init__(self, **parts: Any):
        if not parts:
            raise ValueError("Record needs at least one named part, as in Record(a=Real((2,)))")
        for name, part in parts.items():
            if not isinstance(part, AbstractArraySpace):
                raise TypeError(
                    f"Record part {name!r}: expected a space such as Real((2,)), got {part!r}"
                )
        self.parts = dict(sorted(parts.items()))  # the order in which JAX flattens dicts

    @property
    def shape(self):  # type: ignore[override]
        return {name: part.shape for name, part in self.parts.items()}

    @property
    def dtype(self):
        return {name: part.dtype for name, part in self.parts.items()}

    @property
    def num_sites(self):
        return sum(part.num_sites for part in self.parts.values())

    @property
    def num_states(self):
        counts = [part.num_states for part in self.parts.values()]
        return None if None in counts else math.prod(n for n in counts if n is not None)

    @property
    def is_continuous(self):
        return all(part.is_continuous for part in self.parts.values())

    def example(self):
        return {name: part.example() for name, part in self.parts.items()}

    def validate(self, x, *, batch=None, name="x"):
        if not isinstance(x, dict) or set(x) != set(self.parts):
            got = sorted(x) if isinstance(x, dict) else type(x).__name__
            raise ValueError(f"{name}: expected a dict with keys {sorted(self.parts)}, got {got}")
        out = {
            key: part.validate(x[key], batch=batch, name=f"{name}[{key!r}]")
            for key, part in self.parts.items()
        }
        extra = {k: v.ndim - len(self.parts[k].shape) for k, v in out.items()}
        rows = {k: len(v) for k, v in out.items() if extra[k] == 1}
        if len(set(extra.values())) > 1 or len(set(rows.values())) > 1:
            raise ValueError(f"{name}: expected as many rows in each part, got {rows}")
        return out

    def propose(self, x, scale, *, key):
        """Every part moves by its own rule; `scale` is a number or a dict like x."""
        keys = jax.random.split(key, len(self.parts))
        return {
            name: part.propose(
                x[name], scale[name] if isinstance(scale, dict) else scale, key=keys[i]
            )
            for i, (name, part) in enumerate(self.parts.items())
        }

    def states(self, index):
        if self.num_states is None:
            return super().states(index)
        out = {}
        for name, part in self.parts.items():
            out[name] = part.states(index % part.num_states)  # type: ignore[operator]
            index = index // part.num_states  # type: ignore[operator]
        return out
