"""Chains on several devices: each has its share, and statistics of all are the same sums."""

import contextlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from energax.spaces import Point, num_rows


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


def of_shares(f: Callable, theta: PyTree, batches: tuple[Point, ...]) -> tuple[Array, ...]:
    """f(theta, batch), a number a row, of each of `batches`, every device with its share of them.

    With respect to theta the gradient is summed over the devices as one vector: array by array each
    sum would be a meeting of all of them, which takes as long as ten steps of chains.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or any(num_rows(batch) % mesh.size for batch in batches):
        return tuple(f(theta, batch) for batch in batches)
    arrays, rest = eqx.partition(theta, eqx.is_inexact_array)
    vector, unravel = ravel_pytree(arrays)

    def here(vector, batches):
        whole = eqx.combine(unravel(vector), rest)
        return tuple(f(whole, batch) for batch in batches)

    everywhere, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(mesh.axis_names[0])
    share = jax.shard_map(here, in_specs=(everywhere, rows), out_specs=rows, check_vma=False)
    return share(vector, batches)


def by_one(make: Callable[[], PyTree]) -> PyTree:
    """The numbers `make()` gives, computed by the first device and told to all in the mesh in use.

    For what needs no share of anything: devices that are cores of one machine would each do it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return make()
    axis, empty = mesh.axis_names[0], jax.eval_shape(make)

    def told():
        made = jax.lax.cond(
            jax.lax.axis_index(axis) == 0,
            make,
            lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), empty),
        )
        return jax.lax.psum(made, axis)

    everywhere = jax.sharding.PartitionSpec()
    return jax.shard_map(told, in_specs=(), out_specs=everywhere, check_vma=False)()
