"""Sites of k values, every pair of them with a table of couplings.

E(x) = −Σ_{i<j} J_ij(x_i, x_j) − Σ_i h_i(x_i) (Weigt et al. 2009; Ekeberg et al. 2013, eq. 2), the
Potts model of protein families.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax import random
from energax.energies._base import AbstractColouredEnergy, AbstractTiltable, base_rates, broadcast
from energax.energies.lattice._base import with_parameters
from energax.spaces import Categorical


class GeneralPotts(AbstractColouredEnergy, AbstractTiltable):
    """E(x) = −Σ_{i<j} J_ij(x_i, x_j) − Σ_i h_i(x_i), a (k, k) table for every pair of sites.

    Ekeberg et al. 2013, "Improved contact prediction in proteins: using pseudolikelihoods to infer
    Potts models", eq. 2. `Potts` is the case J_ij(a, b) = J_ij [a = b] on a graph. Tables say the
    same thing in many ways: `zero_sum()` is the one whose tables' rows and columns sum to 0.

    **Arguments:** `couplings`: J_ij of pairs i < j, (pairs, k, k), pairs in the order of
    `numpy.triu_indices(sites, 1)`; a number makes all tables constant. `fields`: h, (sites, k).
    `encoding`: of the space, "index" or "onehot".

    **Raises:** ValueError if the shapes do not fit each other.
    """

    couplings: Float[Array, "pairs k k"]
    fields: Float[Array, "sites k"]
    space: Categorical

    def __init__(self, couplings: Any, fields: Any, *, encoding: str = "index"):
        fields = jnp.asarray(fields, float)
        if fields.ndim != 2:
            raise ValueError(f"GeneralPotts: expected fields (sites, k), got {fields.shape}")
        sites, k = fields.shape
        shape = (sites * (sites - 1) // 2, k, k)
        self.couplings = broadcast("GeneralPotts", couplings, shape, "couplings (pairs, k, k)")
        self.fields = fields
        self.space = Categorical((sites,), k, encoding)

    @staticmethod
    def zeros(space: Categorical, data: Any = None) -> "GeneralPotts":
        """One to start training from: J = 0, and h from the base rates of `data`.

        Half a row of each value is added so that h is finite.

        **Arguments:** `data`: (rows, *event) of the space; None leaves h = 0.

        **Raises:** ValueError if `data` does not suit the space.
        """
        fields = np.zeros((space.num_sites, space.num_values))
        if data is not None:
            index = np.asarray(space.decode(space.validate(data, batch=True, name="data")))
            fields = base_rates(index.reshape(len(index), -1), space.num_values)
        return GeneralPotts(0.0, fields, encoding=space.encoding)

    @property
    def colours(self):  # type: ignore[override]
        return tuple(np.arange(self.space.num_sites, dtype=np.int32)[:, None])

    @property
    def matrix(self) -> Float[Array, "states states"]:
        """All tables in one symmetric matrix of (site, value) pairs, 0 within a site."""
        sites, k = self.fields.shape
        i, j = np.triu_indices(sites, 1)
        whole = jnp.zeros((sites, sites, k, k), self.couplings.dtype)
        whole = whole.at[i, j].set(self.couplings, unique_indices=True)
        whole = whole.at[j, i].set(jnp.swapaxes(self.couplings, 1, 2), unique_indices=True)
        return whole.transpose(0, 2, 1, 3).reshape(sites * k, sites * k)

    def __call__(self, x):
        return -self.ensemble_log_density(x[None])[0]

    def ensemble_log_density(self, x):
        onehot = self._onehot(x)
        around = onehot @ self.matrix / 2 + self.fields.reshape(-1)
        return jnp.sum(onehot * around, axis=-1)

    def site_differences(self, x):
        return self.ensemble_site_differences(x[None])[0]

    def ensemble_site_differences(self, x):
        onehot = self._onehot(x)
        logits = onehot @ self.matrix + self.fields.reshape(-1)
        logits = logits.reshape(len(x), *self.fields.shape)
        here = jnp.sum(logits * onehot.reshape(logits.shape), axis=-1, keepdims=True)
        return here - logits

    def sweep(self, x, *, key, backwards=False):
        sites, k = self.fields.shape
        tables = self.matrix.reshape(sites, k, sites * k)
        keys = jax.random.split(key, sites)

        def redraw(step, onehot):  # (sites · k, chains)
            site = sites - 1 - step if backwards else step
            logits = tables[site] @ onehot + self.fields[site][:, None]
            new = random.categorical(keys[site], logits.T)
            rows = jax.nn.one_hot(new, k, axis=0, dtype=onehot.dtype)
            return jax.lax.dynamic_update_slice_in_dim(onehot, rows, site * k, 0)

        onehot = jax.lax.fori_loop(0, sites, redraw, self._onehot(x).T).T
        new = onehot.reshape(len(x), sites, k)
        if self.space.encoding == "index":
            new = jnp.argmax(new, axis=-1).astype(jnp.int32)
        return new, self.ensemble_log_density(new)

    def _onehot(self, x) -> Float[Array, "rows states"]:
        if self.space.encoding == "index":
            x = jax.nn.one_hot(x, self.space.num_values, dtype=self.fields.dtype)
        return x.reshape(len(x), -1)

    def zero_sum(self) -> "GeneralPotts":
        """The same distribution with tables whose rows and columns sum to 0, and fields that do.

        The gauge of the smallest tables (Ekeberg et al. 2013, eq. 4); E changes by a constant.
        """
        sites, _ = self.fields.shape
        i, j = np.triu_indices(sites, 1)
        rows = self.couplings.mean(axis=2, keepdims=True)
        columns = self.couplings.mean(axis=1, keepdims=True)
        whole = self.couplings.mean(axis=(1, 2), keepdims=True)
        fields = self.fields.at[i].add((rows - whole)[:, :, 0])
        fields = fields.at[j].add((columns - whole)[:, 0])
        fields = fields - fields.mean(axis=1, keepdims=True)
        return self._like(self.couplings - rows - columns + whole, fields)

    def tilt(self, field) -> "GeneralPotts":
        """The model with f(x) + Σ_i field_i(x_i).

        **Arguments:** `field`: (sites, k) or a number.
        """
        return self._like(self.couplings, self.fields + field)

    def merged(self, other):
        """The model whose tables and fields are the sums of both."""
        if not isinstance(other, GeneralPotts) or other.space != self.space:
            return None
        return self._like(self.couplings + other.couplings, self.fields + other.fields)

    def tempered(self, beta) -> "GeneralPotts":
        """βE: couplings βJ and fields βh."""
        return self._like(beta * self.couplings, beta * self.fields)

    def restrict(self, conditional) -> "GeneralPotts":
        """The model of the free sites; tables with the given ones become fields."""
        sites, k = self.fields.shape
        free = np.asarray(conditional.free)
        given = self._onehot(conditional.given[None]).reshape(sites, k).at[free].set(0.0)
        pull = (self.matrix @ given.reshape(-1)).reshape(sites, k)
        number = np.full((sites, sites), -1)
        number[np.triu_indices(sites, 1)] = np.arange(len(self.couplings))
        inside = number[np.ix_(free, free)][np.triu_indices(len(free), 1)]
        fields = (self.fields + pull)[free]
        return GeneralPotts(self.couplings[inside], fields, encoding=self.space.encoding)

    def _like(self, couplings, fields) -> "GeneralPotts":
        return with_parameters(self, couplings, fields)
