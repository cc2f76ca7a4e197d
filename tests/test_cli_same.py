"""`energax same`: two files, one answer, the statuses of every command."""

import json

import numpy as np
import pytest

from tests.test_cli import run


def write(path, rows, header):
    lines = [",".join("" if np.isnan(v) else f"{v:.6g}" for v in row) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(2, 120, 3))
    X[3, 0] = np.nan
    Y[:, 1] += 0.9
    return [write(tmp_path / f"{n}.csv", r, "age,weight,height") for n, r in (("x", X), ("y", Y))]


def test_two_files_are_told_apart(files, capsys):
    status, out, _ = run("same", *files, "--json", capsys=capsys)
    answer = json.loads(out)  # one object and nothing else
    assert status == 0 and answer["p_value"] == 0.001 == answer["smallest_p"]
    assert answer["columns"][0] == "weight" and answer["column_p_values"][0] <= 0.005
    assert sorted(answer["columns"]) == ["age", "height", "weight"]
    assert answer["num_rows"] == [120, 120] and answer["reliable"] and answer["reasons"] == []
    assert 0 < answer["lower"] < answer["divergence"] < answer["upper"] < np.log(2)
    assert run("same", *files, "--json", capsys=capsys)[1] == out
    status, out, _ = run("same", *files, "--num-permutations", 99, capsys=capsys)
    assert status == 0 and out.startswith("p = 0.01 ") and "differ: weight (p 0.01)" in out


def test_a_file_beside_itself_is_doubtful(files, capsys):
    status, out, _ = run("same", files[0], files[0], "--strict", capsys=capsys)
    assert status == 3 and "p = 1 " in out and "none for sure" in out
    assert "NOT RELIABLE: 120 row(s) are in both" in out


def test_categories_of_arrays_are_named_by_number(tmp_path, capsys):
    rng = np.random.default_rng(1)
    X, Y = rng.integers(3, size=(2, 150, 4))
    Y[:, 2] = rng.choice(3, 150, p=(0.6, 0.2, 0.2))
    np.savez(tmp_path / "x.npz", rows=X, other=Y)
    np.savez(tmp_path / "y.npz", rows=Y, other=Y)
    arguments = [tmp_path / "x.npz", tmp_path / "y.npz", "--array", "rows", "--json"]
    status, out, _ = run("same", *arguments, "--space", "categorical:3", capsys=capsys)
    answer = json.loads(out)
    assert status == 0 and answer["p_value"] <= 0.005 and answer["columns"][0] == "2"


def test_what_cannot_be_compared_exits_2_in_one_line(files, tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(9, 3))
    swapped = write(tmp_path / "swapped.csv", rows, "age,height,weight")
    fewer = write(tmp_path / "fewer.csv", rows[:, :2], "age,weight")
    np.save(tmp_path / "fewer.npy", rows[:, :2])
    few = write(tmp_path / "few.csv", rows[:2], "age,weight,height")
    words = write(tmp_path / "words.csv", rows, "age,weight,height")
    words.write_text(words.read_text() + "1,tall,2\n")
    for other, options, told in (
        (swapped, (), "'weight' and 'height' in place 1"),
        (fewer, (), "got 3 and 2"),
        (tmp_path / "fewer.npy", (), "same columns"),
        (few, (), "cannot give a p-value below"),
        (words, (), "numbers"),
        (tmp_path / "nowhere.csv", (), "no such data file"),
        (files[1], ("--space", "auto"), "say what the columns are"),
        (files[1], ("--space", "count"), "NaN or infinite"),
        (files[1], ("--num-permutations", 5), "num-permutations"),
    ):
        status, out, err = run("same", files[0], other, *options, capsys=capsys)
        assert status == 2 and out == "" and told in err, err
        assert len(err.strip().splitlines()) == 1
