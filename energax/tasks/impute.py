"""Fill what is missing: sample p(missing | observed) for every row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractEnergy,
    AbstractNormalised,
    AbstractTiltable,
    check_scalar,
)
from energax.energies.reference import default_base
from energax.random import as_key
from energax.spaces import (
    AbstractArraySpace,
    AbstractSpace,
    Binary,
    Categorical,
    Point,
    Record,
    Spin,
)
from energax.tasks._base import (
    NUM_CHAINS,
    AbstractPosteriors,
    Clamped,
    Restored,
    sample_posteriors,
)

_PIN = 100.0
"""Log-odds that hold an observed site of a tilted model: it moves with probability e⁻¹⁰⁰."""


class ClampedLayers(AbstractBipartiteEnergy):
    """p(missing | observed) of an energy of two layers, observed sites held at those of `point`.

    Its block Gibbs step redraws all that is missing at once, given the hidden units.
    """

    energy: AbstractBipartiteEnergy
    point: Point
    missing: Any

    @property
    def space(self):  # type: ignore[override]
        return self.energy.space

    def whole(self, x: Point) -> Point:
        """`x` where it is missing, else `point`; a batch or one point."""
        return jax.tree.map(jnp.where, self.missing, x, self.point)

    def __call__(self, x):
        return self.energy(self.whole(x))

    def hidden_input(self, x):
        return self.energy.hidden_input(self.whole(x))

    def log_density_from(self, x, hidden_input):
        return self.energy.log_density_from(self.whole(x), hidden_input)

    def draw_hidden(self, hidden_input, *, key):
        return self.energy.draw_hidden(hidden_input, key=key)

    def hidden_mean(self, x):
        return self.energy.hidden_mean(self.whole(x))

    def sample_visible(self, hidden, *, key):
        return self.whole(self.energy.sample_visible(hidden, key=key))

    @property
    def num_summed_states(self):
        return None

    def log_z_by_sum(self):
        """**Raises:** ValueError: sites that are held count in no Z."""
        raise ValueError(
            "sites that are held have no part in a normaliser: take log Z of energy.condition(...)"
        )


def impute(energy: AbstractEnergy, X: Point, *, key) -> Restored:
    """Fills NaN by conditional sampling: mean, spread and draws of every missing site.

    **Arguments:** `X`: (rows, *event) with NaN where a value is missing, or one point; on `Record`
    a dict of such arrays. A one-hot site is missing if any of its entries is NaN.

    **Returns:** `Restored`; observed sites come back as they were, with sd 0.

    **Raises:** ValueError for observed values outside the space or rows of the wrong shape.
    """
    check_scalar(energy)
    space = energy.space
    filled, missing = _split_missing(space, X)
    return sample_posteriors(
        _Gaps(energy, default_base(space)), (filled, missing), space, key=as_key(key)
    )


class _Gaps(AbstractPosteriors):
    """p(missing | observed) of rows (point, which entries are missing)."""

    energy: AbstractEnergy
    base: AbstractNormalised

    @property
    def is_tilted(self) -> bool:
        """Whether observed sites are held by a strong field."""
        has_field = isinstance(self.energy, AbstractTiltable)
        return has_field and isinstance(self.energy.space, (Binary, Spin))

    def posterior(self, row):
        point, gone = row
        if isinstance(self.energy, AbstractBipartiteEnergy):
            return ClampedLayers(self.energy, point, gone)
        if isinstance(self.energy, AbstractTiltable) and self.is_tilted:
            sign = 2 * point - 1 if isinstance(self.energy.space, Binary) else point
            return self.energy.tilt(jnp.where(gone, 0.0, _PIN * sign))
        return Clamped(self.energy, self.base, point, gone)

    def starts(self, row, *, key):
        point, gone = row
        drawn = self.base.draw(NUM_CHAINS, key=key)
        if self.is_tilted or isinstance(self.energy, AbstractBipartiteEnergy):
            return jax.tree.map(jnp.where, gone, drawn, point)
        return drawn

    def finish(self, x, row):
        point, gone = row
        return jax.tree.map(lambda draws, p, g: jnp.where(g, draws, p), x, point, gone)


def _split_missing(space: AbstractSpace, X: Point) -> tuple[Any, Any]:
    """(rows with missing sites filled by an example, which entries are missing), as JAX arrays."""
    if isinstance(space, Record):
        if not isinstance(X, dict) or set(X) != set(space.parts):
            raise ValueError(f"X: expected a dict with keys {sorted(space.parts)}")
        both = {k: _split_missing(part, X[k]) for k, part in space.parts.items()}
        return {k: v[0] for k, v in both.items()}, {k: v[1] for k, v in both.items()}
    assert isinstance(space, AbstractArraySpace)
    values = np.array(X, float)
    if values.ndim == len(space.shape):
        values = values[None]
    gone = np.isnan(values)
    if isinstance(space, Categorical) and space.encoding == "onehot":
        gone = np.broadcast_to(gone.any(-1, keepdims=True), values.shape)
    if values.shape[1:] != space.shape:
        raise ValueError(f"X: expected (rows, *{space.shape}) for {space}, got {values.shape}")
    filled = np.where(gone, np.asarray(space.example(), float), values)
    checked = space.validate(filled, batch=True, name="X")
    return jnp.asarray(checked), jnp.asarray(gone)
