"""Trees come back as they were; what is damaged, newer or unknown is refused with its name."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import io, random


class Layer(eqx.Module):
    weight: jax.Array
    name: str = eqx.field(static=True)
    extra: Any = None


class Child(Layer):
    pass


REGISTRY = {"Layer": Layer}


@pytest.fixture
def tree():
    return {
        "a/b": Layer(jnp.arange(6.0).reshape(2, 3), "first", (1, 2.5, True, None, "x")),
        "list": [jnp.asarray(3, jnp.int32), np.arange(3), np.float64(2.0)],
        "half": jnp.asarray([1.5, -2.0], jnp.bfloat16),
        "none": (float("inf"), jnp.zeros((0, 4)), np.dtype("float32")),
        "key": random.key(7),
    }


def save(path, tree, **info):
    io.write_archive(path, {"tree": tree}, registry=REGISTRY, info=info)
    return path


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(x) == jax.random.key_impl(y)
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        assert np.asarray(x).dtype == np.asarray(y).dtype


def test_a_tree_comes_back_as_it_was(tmp_path, tree):
    archive = io.read_archive(save(tmp_path / "tree.json", tree, answer=42, name="é"))
    assert archive.info == {"answer": 42, "name": "é"}
    back = archive.build("tree", REGISTRY)
    tree["list"][2] = 2.0  # NumPy scalars become plain numbers
    same(back, tree)
    assert type(back["a/b"]) is Layer and back["a/b"].extra == (1, 2.5, True, None, "x")
    same(archive.fill("tree", jax.tree.map(lambda a: a, tree)), tree)


def test_float64_is_not_silently_cut(tmp_path):
    with jax.enable_x64(True):
        save(tmp_path / "tree.json", {"w": jnp.asarray([0.1], jnp.float64)})
    archive = io.read_archive(tmp_path / "tree.json")
    with pytest.raises(ValueError, match=r"float64.*JAX_ENABLE_X64"):
        archive.build("tree", REGISTRY)
    with jax.enable_x64(True):
        assert archive.build("tree", REGISTRY)["w"].dtype == jnp.float64


def test_functions_and_foreign_classes_ask_for_a_template(tmp_path):
    foreign = Child(jnp.ones(2), "mine", [lambda x: x, jnp.zeros(1)])
    archive = io.read_archive(save(tmp_path / "tree.json", {"energy": foreign}))
    with pytest.raises(io.UnknownTree, match=r"tree\['energy'\] is .*Child.*its code"):
        archive.build("tree", REGISTRY)
    template = {"energy": Child(jnp.zeros(2), "mine", [foreign.extra[0], jnp.ones(1)])}
    same(archive.fill("tree", template), {"energy": foreign})
    wrong_shape = {"energy": Child(jnp.zeros(3), "mine", [None, jnp.ones(1)])}
    with pytest.raises(ValueError, match=r"weight of shape \(2,\).*has \(3,\)"):
        archive.fill("tree", wrong_shape)
    with pytest.raises(ValueError, match=r"1 array.* missing, such as .*extra"):
        archive.fill("tree", {"energy": Child(jnp.zeros(2), "mine")})
    with pytest.raises(ValueError, match=r"were not saved, such as .*more"):
        archive.fill("tree", {**template, "more": jnp.ones(1)})


def test_no_code_runs_and_unknown_classes_are_named(tmp_path, tree):
    path = save(tmp_path / "tree.json", tree)
    with pytest.raises(io.UnknownTree, match="is a Layer, which this energax does not know"):
        io.read_archive(path).build("tree", {})

    class Layer2(eqx.Module):
        weight: jax.Array

        def __init__(self):
            raise AssertionError("a constructor ran")

    with pytest.raises(io.UnknownTree, match="saved Layer has the fields"):
        io.read_archive(path).build("tree", {"Layer": Layer2})


def rewrite(path, change):
    """Changes the JSON and mends its checksum, as an attacker or a newer version would."""
    document = json.loads(path.read_text())
    document.pop("sha256")
    change(document)
    text = json.dumps(document, sort_keys=True)
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(document))


def test_newer_formats_are_refused(tmp_path, tree):
    path = save(tmp_path / "tree.json", tree)
    rewrite(path, lambda document: document.update(energax_format=io.FORMAT + 1))
    with pytest.raises(ValueError, match=f"format {io.FORMAT + 1}.*upgrade"):
        io.read_archive(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="not written by energax"):
        io.read_archive(path)


def test_damage_is_found(tmp_path, tree):
    def damaged(match):
        with pytest.raises(io.DamagedFile, match=match):
            io.read_archive(path)

    path = save(tmp_path / "tree.json", tree)
    text = path.read_text()
    path.write_text(text[:-20])
    damaged("no complete JSON")
    path.write_text(text.replace('"first"', '"other"'))
    damaged("changed after")
    path.write_text(text)
    (arrays,) = tmp_path.glob("*.safetensors")
    content = arrays.read_bytes()
    arrays.write_bytes(content[:-8])
    damaged(f"expected {len(content)} bytes, found {len(content) - 8}")
    arrays.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    damaged("changed after")
    arrays.unlink()
    damaged("are gone")
    arrays.write_bytes(content)
    same(io.read_archive(path).build("tree", REGISTRY)["a/b"], tree["a/b"])


def test_writing_again_leaves_two_files(tmp_path):
    for value in (1.0, 2.0):
        path = save(tmp_path / "tree.json", {"w": jnp.asarray(value)})
    assert len(list(tmp_path.iterdir())) == 2
    assert io.read_archive(path).build("tree", REGISTRY)["w"] == 2.0
    io.remove_archive(path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "file.txt"
    with io.atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(OSError, match="disk full"), io.atomic_write(path) as file:
        file.write(b"new")
        raise OSError("disk full")
    with pytest.raises(OSError) as caught, io.atomic_write(path) as file:
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "no_folder").write_text("a file")
    with pytest.raises(OSError) as caught, io.atomic_write(tmp_path / "no_folder" / "x"):
        pass
    assert caught.value.filename == str(tmp_path / "no_folder" / "x")


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_archive(tmp_path):
    path = save(tmp_path / "tree.json", {"w": jnp.asarray(1.0)})
    code = (
        "import os, signal, sys\n"
        "from energax import io\n"
        "with io.atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert io.read_archive(path).build("tree", REGISTRY)["w"] == 1.0
