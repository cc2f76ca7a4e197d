"""Where a run computes: on one device, on several, or on those of several processes.

Every device holds all parameters and all rows (or the window of them), and takes its share of each
minibatch and of the chains; XLA sums the gradients. Several processes (`jax.distributed`) run the
same program on the same rows; what a clock decides, the first one decides for all.
"""

import contextlib
import dataclasses
import hashlib
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from energax.samplers._base import in_use


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run; no mesh where there is one.

    `leads`: whether this process is the one that writes and decides.
    """

    mesh: Mesh | None = None
    num_processes: int = 1
    leads: bool = True

    @classmethod
    def of(cls, batch_size: int, num_rows: int) -> "Devices":
        """As many as divide a minibatch, of all that JAX has.

        **Raises:** ValueError where several processes cannot take equal shares of a minibatch.
        """
        devices, processes = jax.devices(), jax.process_count()
        num = math.gcd(len(devices), batch_size)
        if processes > 1:
            # A minibatch of all rows is what it is; each device then goes over them all.
            if num < len(devices) and batch_size < num_rows:
                raise ValueError(
                    f"batch_size: expected a multiple of {len(devices)}, the devices of "
                    f"{processes} processes, so that each takes an equal share; got {batch_size}"
                )
            num = len(devices)
        if num == 1:
            return cls()
        mesh = Mesh(np.array(devices[:num]), ("devices",))
        return cls(mesh, processes, jax.process_index() == 0)

    def in_use(self) -> contextlib.AbstractContextManager[Any]:
        """Within it `apart` and `together` spread and gather."""
        return in_use(self.mesh)

    def everywhere(self, tree: PyTree) -> PyTree:
        """`tree` whole on every device. Every process must have the same one."""
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, PartitionSpec())
        here = list(sharding.addressable_devices)

        def put(a):
            if not eqx.is_array(a) or (isinstance(a, jax.Array) and a.sharding == sharding):
                return a
            if _is_key(a):
                data = put(jax.random.key_data(a))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
            copies = [jax.device_put(a, device) for device in here]
            return jax.make_array_from_single_device_arrays(np.shape(a), sharding, copies)

        return jax.tree.map(put, tree)

    def here(self, tree: PyTree) -> PyTree:
        """`tree`, whole on every device, as plain arrays of this process."""
        if self.mesh is None:
            return tree

        def take(a):
            if not isinstance(a, jax.Array) or len(a.sharding.device_set) == 1:
                return a
            if _is_key(a):
                data = jnp.asarray(np.asarray(jax.random.key_data(a)))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
            return jnp.asarray(np.asarray(a))

        return jax.tree.map(take, tree)

    def agreed(self, number: int) -> int:
        """The first process's number, in all of them. All must ask, and in the same order."""
        if self.num_processes == 1:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def check_same(self, **told: Any) -> None:
        """Raises ValueError unless all processes say the same; they wait for each other."""
        if self.num_processes == 1:
            return
        from jax.experimental import multihost_utils

        for name, value in told.items():
            digest = hashlib.sha256(repr(value).encode()).digest()
            mine = np.frombuffer(digest[:8], np.uint32)
            all_ = np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, 2)
            others = np.flatnonzero((all_ != all_[0]).any(1))
            if len(others):
                raise ValueError(
                    f"{name.replace('_', ' ')}: expected the same in all {self.num_processes} "
                    f"processes, but process {others[0]} has another than process 0; give all of "
                    "them the same files and arguments"
                )


def _is_key(a: Any) -> bool:
    return isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
