"""Trees of arrays (models, optimiser states, chains) saved without pickle.

An archive is two files: NAME.json says what there is (class names, static values, structure, a
checksum), NAME.<digest>.safetensors holds the arrays. The JSON is written last and names the other
file by its digest, so that an archive exists whole or not at all. Reading runs no code from the
file: class names are looked up in a registry that the caller passes in, and objects are filled
field by field without calling them.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax import random
from energax.io._base import DamagedFile, atomic_write, write_json

FORMAT = 1
"""Version of the archive's format; a file of a newer one is refused."""

Registry = Mapping[str, type]


class UnknownTree(ValueError):
    """A tree that holds what no file can describe, such as the user's own function."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """What `read_archive` found: `info` as it was given, and the trees by name."""

    path: Path
    info: dict[str, Any]
    _trees: dict[str, Any]
    _table: dict[str, Any]
    _arrays: dict[str, np.ndarray]

    def build(self, name: str, registry: Registry) -> Any:
        """The tree `name`, made from its description.

        **Raises:** UnknownTree if it holds a function or a class that is not in `registry`.
        """
        tree = self._trees[name]["description"]
        return _build(tree, registry, self._leaf, name)

    def fill(self, name: str, template: Any) -> Any:
        """`template` with its arrays replaced by those of the tree `name`, place by place.

        **Raises:** ValueError unless places, shapes and dtypes of the arrays agree.
        """
        found = array_leaves(template, name)
        stored = self._trees[name]["leaves"]
        missing, extra = sorted(set(stored) - set(found)), sorted(set(found) - set(stored))
        if missing or extra:
            raise ValueError(
                f"{self.path}: the given {name} has not the structure of the saved one: "
                + "; ".join(
                    f"{len(names)} array(s) {what}, such as {names[0]}"
                    for names, what in ((missing, "are missing"), (extra, "were not saved"))
                    if names
                )
            )
        for place, leaf in found.items():
            shape, dtype = self._table[place]["shape"], self._table[place]["dtype"]
            got_shape, got_dtype = list(_as_numpy(leaf).shape), str(_as_numpy(leaf).dtype)
            if (shape, dtype) != (got_shape, got_dtype):
                raise ValueError(
                    f"{self.path}: expected {place} of shape {tuple(shape)} and dtype {dtype} as "
                    f"saved, the given {name} has {tuple(got_shape)} and {got_dtype}"
                )

        def replace(place, leaf):
            if not eqx.is_array(leaf) and not isinstance(leaf, np.ndarray):
                return leaf
            return self._leaf(name + jax.tree_util.keystr(place), isinstance(leaf, np.ndarray))

        return jax.tree_util.tree_map_with_path(replace, template)

    def array(self, name: str) -> np.ndarray:
        """One stored array by its full name, as NumPy."""
        return self._arrays[name]

    def _leaf(self, name: str, as_numpy: bool) -> Any:
        value = self._arrays[name]
        if as_numpy:
            return value
        implementation = self._table[name].get("key")
        if implementation is not None:
            if implementation == random.TAG:
                return random.wrap(value)
            if implementation == random.OLD_TAG:
                raise ValueError(
                    f"{self.path}: {name} is a random key of an earlier energax, whose numbers are "
                    "no longer drawn: the run can't go on bit for bit; start it anew"
                )
            return jax.random.wrap_key_data(jnp.asarray(value), impl=implementation)
        out = jnp.asarray(value)
        if out.dtype != value.dtype:
            raise ValueError(
                f"{self.path}: {name} was saved as {value.dtype}, which JAX does not hold now; "
                "switch 64-bit numbers on (JAX_ENABLE_X64=1)"
            )
        return out


def array_leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """The arrays in `tree` by their place, as `"name.field['key'][0]"`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        name + jax.tree_util.keystr(place): leaf
        for place, leaf in leaves
        if eqx.is_array(leaf) or isinstance(leaf, np.ndarray)
    }


def write_archive(
    path: str | Path, trees: Mapping[str, Any], *, registry: Registry, info: Mapping[str, Any]
) -> None:
    """Writes the named trees and the plain JSON data `info` to `path` (NAME.json) and beside it.

    What `registry` does not know (functions, classes of the user's own) keeps its arrays only; such
    a tree is read back by `Archive.fill`.

    **Raises:** OSError if it cannot be written; ImportError without safetensors.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    table: dict[str, Any] = {}

    def store(name: str, leaf: Any) -> None:
        if name in arrays:
            raise ValueError(f"two arrays would be saved as {name}")
        value = _as_numpy(leaf)
        table[name] = {"shape": list(value.shape), "dtype": str(value.dtype)}
        if _is_key(leaf):
            table[name]["key"] = str(jax.random.key_impl(leaf))
        if value.dtype.kind == "V":  # bfloat16 and kin: safetensors' NumPy door does not read them
            value = value.view(f"u{value.dtype.itemsize}")
        arrays[name] = np.ascontiguousarray(value).reshape(value.shape)

    described = {}
    classes = {cls: known for known, cls in registry.items()}
    for name, tree in trees.items():
        before = len(arrays)
        description = _describe(tree, classes, store, name)
        described[name] = {"description": description, "leaves": list(arrays)[before:]}
    content = _safetensors().save(arrays)
    digest = hashlib.sha256(content).hexdigest()
    arrays_path = path.with_name(f"{path.stem}.{digest[:12]}.safetensors")
    document = {
        "energax_format": FORMAT,
        "info": dict(info),
        "trees": described,
        "arrays": {
            "file": arrays_path.name,
            "bytes": len(content),
            "sha256": digest,
            "table": table,
        },
    }
    with atomic_write(arrays_path) as file:
        file.write(content)
    write_json(path, {**document, "sha256": _checksum(document)})
    _remove_arrays(path, but=arrays_path)


def read_archive(path: str | Path) -> Archive:
    """Reads and checks what `write_archive` wrote.

    **Raises:** FileNotFoundError if there is none; DamagedFile if either file is cut short or was
    changed; ValueError if it is of a newer format.
    """
    path = Path(path)
    document = _read_document(path)
    said = document["arrays"]
    arrays_path = path.with_name(said["file"])
    try:
        content = arrays_path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedFile(f"{path} is damaged: its arrays, {arrays_path.name}, are gone") from error
    if len(content) != said["bytes"]:
        raise DamagedFile(
            f"{arrays_path} is damaged: expected {said['bytes']} bytes, found {len(content)}"
        )
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise DamagedFile(f"{arrays_path} is damaged: it was changed after it was written")
    arrays = _safetensors().load(content)
    table = said["table"]
    arrays = {name: value.view(jnp.dtype(table[name]["dtype"])) for name, value in arrays.items()}
    return Archive(path, document["info"], document["trees"], table, arrays)


def read_info(path: str | Path) -> dict[str, Any]:
    """The `info` of an archive alone; its arrays are not read, and may be damaged.

    **Raises:** as `read_archive` for the JSON file.
    """
    return _read_document(Path(path))["info"]


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged: it is no complete JSON file") from error
    if not isinstance(document, dict) or "energax_format" not in document:
        raise ValueError(f"{path} was not written by energax")
    version = document["energax_format"]
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, this energax reads up to {FORMAT}: upgrade energax"
        )
    if document.pop("sha256", None) != _checksum(document):
        raise DamagedFile(f"{path} is damaged: it was changed after it was written")
    return document


def remove_archive(path: str | Path) -> None:
    """Deletes an archive; the JSON goes first, so that no half of one is ever taken for whole."""
    path = Path(path)
    path.unlink(missing_ok=True)
    _remove_arrays(path)


def _remove_arrays(path: Path, but: Path | None = None) -> None:
    for old in path.parent.glob(f"{path.stem}.*.safetensors"):
        if old != but:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()


def _checksum(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("saving and loading need safetensors: pip install energax[io]") from error
    return safetensors.numpy


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _describe(
    value: Any, classes: Mapping[type, str], store: Callable[[str, Any], None], place: str
) -> Any:
    """`value` as JSON data; arrays go to `store` under their place in the tree."""

    def inside(child: Any, step: str) -> Any:
        return _describe(child, classes, store, place + step)

    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.generic):
        return inside(value.item(), "")
    if eqx.is_array(value) or isinstance(value, np.ndarray):
        store(place, value)
        return {"numpy" if isinstance(value, np.ndarray) else "array": place}
    if isinstance(value, np.dtype):
        return {"dtype": str(value)}
    if kind in (list, tuple):
        return {kind.__name__: [inside(child, f"[{i}]") for i, child in enumerate(value)]}
    if kind is dict and all(isinstance(key, str) for key in value):
        # sorted, as JAX flattens dicts
        return {"dict": {key: inside(value[key], f"[{key!r}]") for key in sorted(value)}}
    if kind in classes:
        fields = dataclasses.fields(value)
        content = {
            field.name: inside(getattr(value, field.name), f".{field.name}") for field in fields
        }
        return {"class": classes[kind], "fields": content}
    for name, leaf in array_leaves(value, place).items():
        store(name, leaf)
    shown = getattr(value, "__qualname__", kind.__qualname__)
    return {"unknown": f"{getattr(value, '__module__', kind.__module__)}.{shown}"}


def _build(node: Any, registry: Registry, leaf: Callable[[str, bool], Any], place: str) -> Any:
    """The inverse of `_describe`."""

    def inside(children: Iterable[tuple[str, Any]]) -> list[Any]:
        return [_build(child, registry, leaf, place + step) for step, child in children]

    match node:
        case None | bool() | int() | float() | str():
            return node
        case {"float": text}:
            return float(text)
        case {"array": name}:
            return leaf(name, False)
        case {"numpy": name}:
            return leaf(name, True)
        case {"dtype": name}:
            return jnp.dtype(name)
        case {"list": children}:
            return inside((f"[{i}]", child) for i, child in enumerate(children))
        case {"tuple": children}:
            return tuple(inside((f"[{i}]", child) for i, child in enumerate(children)))
        case {"dict": children}:
            values = inside((f"[{key!r}]", child) for key, child in children.items())
            return dict(zip(children, values, strict=True))
        case {"class": name, "fields": fields}:
            return _instance(name, fields, registry, inside, place)
        case {"unknown": what}:
            raise UnknownTree(
                f"{place} is {what}, which is not part of energax: a file keeps its arrays, not "
                "its code"
            )
    raise DamagedFile(f"{place}: this energax cannot read {json.dumps(node)[:80]}")


def _instance(name: str, fields: dict[str, Any], registry: Registry, inside, place: str) -> Any:
    cls = registry.get(name)
    if cls is None:
        raise UnknownTree(
            f"{place} is a {name}, which this energax does not know: it was written by another "
            "version, or is a class of your own"
        )
    expected = {field.name for field in dataclasses.fields(cls)}
    if expected != set(fields):
        raise UnknownTree(
            f"{place}: a saved {name} has the fields {sorted(fields)}, this energax's has "
            f"{sorted(expected)}: it was written by another version"
        )
    made = object.__new__(cls)  # fields are set as they were: no constructor runs
    for field, value in zip(fields, inside((f".{f}", c) for f, c in fields.items()), strict=True):
        object.__setattr__(made, field, value)
    return made
