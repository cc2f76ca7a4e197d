"""Chains on several devices: each has its share, and statistics of all are the same sums."""

import contextlib
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from energax.spaces import Point


def mesh_for(num_chains: int) -> Mesh | None:
    """All devices of this process in a row, where there are several and they divide the chains."""
    devices = jax.local_devices()
    if len(devices) == 1 or num_chains % len(devices):
        return None
    return Mesh(np.array(devices), ("chains",))


def in_use(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Within it `apart` and `together` spread and gather over `mesh`; without one nothing is."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def shared_out(x: Point, mesh: Mesh | None) -> Point:
    """Chains x, (num_chains, *event), over the devices of `mesh`."""
    if mesh is None:
        return x
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names[0])))


def together(tree: PyTree) -> PyTree:
    """`tree` whole on every device of the mesh in use, if there is one.

    Statistics over chains are then sums in one order, whatever the number of devices.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    everywhere = jax.sharding.PartitionSpec()
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.with_sharding_constraint(arrays, everywhere), rest)


def apart(tree: PyTree) -> PyTree:
    """`tree` with the rows of its arrays spread over the mesh in use, if there is one.

    Arrays whose first axis the devices do not divide, and all else, stay as they are.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    rows = jax.sharding.PartitionSpec(mesh.axis_names[0])

    def spread(a):
        if not eqx.is_array(a) or a.ndim == 0 or a.shape[0] % mesh.size:
            return a
        return jax.lax.with_sharding_constraint(a, rows)

    return jax.tree.map(spread, tree)
