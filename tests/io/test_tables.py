"""Data files come back as they were written; what is wrong with one is named with its place."""

import numpy as np
import pytest

from energax import io

ROWS = np.asarray([[1.5, -2.0, 3.25], [0.0, 1e-30, 7.0]])


@pytest.mark.parametrize("ending", io.WRITABLE)
def test_what_is_written_is_read(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    io.write_data(path, ROWS)
    np.testing.assert_array_equal(io.read_data(path), ROWS)
    io.write_data(path, ROWS.astype(np.float32)[:, :1].astype(int))
    assert io.read_data(path).dtype.kind == "i"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_named_columns(tmp_path):
    columns = {"p": np.asarray([0.25, 0.5]), "x": ROWS}
    io.write_data(tmp_path / "t.csv", columns)
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == '"p","x0","x1","x2"'
    np.testing.assert_array_equal(
        io.read_data(tmp_path / "t.csv"), np.column_stack([columns["p"], ROWS])
    )
    io.write_data(tmp_path / "t.npz", columns)
    np.testing.assert_array_equal(io.read_data(tmp_path / "t.npz", array="x"), ROWS)
    with pytest.raises(ValueError, match=r"2 arrays \(p, x\).*array="):
        io.read_data(tmp_path / "t.npz")
    with pytest.raises(ValueError, match=r"no array 'z'.*p, x"):
        io.read_data(tmp_path / "t.npz", array="z")
    with pytest.raises(ValueError, match=r"write p, x to an \.npz"):
        io.write_data(tmp_path / "t.npy", columns)
    with pytest.raises(ValueError, match="one length"):
        io.write_data(tmp_path / "t.csv", {"a": np.ones(2), "b": np.ones(3)})
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2\)"):
        io.write_data(tmp_path / "u.csv", np.zeros((2, 2, 2)))
    assert not (tmp_path / "u.csv").exists()


@pytest.mark.parametrize(
    "text",
    ["1,2\n3,4\n", "a,b\n1,2\n3,4\n", "1;2\n3;4\n", "a\tb\n1\t2\n3\t4\n", "\ufeffa,b\n1,2\n3,4"],
)
def test_csv_kinds(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(io.read_data(path), [[1, 2], [3, 4]])


def test_missing_values(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n,4\n5,NA\n")
    with pytest.raises(ValueError, match=r"line 3, column 'a' is missing \(2 missing"):
        io.read_data(path)
    np.testing.assert_array_equal(
        io.read_data(path, allow_missing=True), [[1, 2], [np.nan, 4], [5, np.nan]]
    )
    np.save(tmp_path / "t.npy", [[1.0, np.nan]])
    with pytest.raises(ValueError, match=r"index \(0, 1\) is NaN"):
        io.read_data(tmp_path / "t.npy")
    assert np.isnan(io.read_data(tmp_path / "t.npy", allow_missing=True)).sum() == 1


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("t.csv", b"1,2\n3,4\n5\n6,7,8\n", r"line 3 has 1 cell\(s\), expected 2 .*2 such lines"),
        ("t.csv", b"a,b\n1,2\n\n3\n", "line 4 has 1 cell"),
        ("t.csv", b"a,b\n1,x\n2,y\n", r"numbers in every column, got 'b' \(string\)"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n\n", "is empty"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"1,2\n\xff\xfe,4\n", "numbers in every column|not a readable"),
        ("t.npy", b"", "is empty"),
        ("t.npy", b"\x93NUMPY\x01\x00v\x00", "no complete NumPy file"),
        ("t.npz", b"PK\x03\x04 cut", "no complete"),
        ("t.parquet", b"PAR1 cut", "no complete Parquet"),
        ("t.txt", b"1 2", "ending in .npy"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=match):
        io.read_data(tmp_path / name)


def test_other_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such data file.*none\.csv"):
        io.read_data(tmp_path / "none.csv")
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    with pytest.raises(ValueError, match="no rows"):
        io.read_data(tmp_path / "none.npy")
    np.save(tmp_path / "text.npy", np.asarray(["a", "b"]))
    with pytest.raises(ValueError, match="expected numbers, got dtype"):
        io.read_data(tmp_path / "text.npy")
    np.save(tmp_path / "pickle.npy", np.asarray([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="no complete NumPy file of numbers"):
        io.read_data(tmp_path / "pickle.npy")
    with pytest.raises(ValueError, match="ending in"):
        io.write_data(tmp_path / "x.txt", ROWS)
    with pytest.raises(OSError):
        io.write_data(tmp_path / "no folder" / "x.npy", ROWS)
