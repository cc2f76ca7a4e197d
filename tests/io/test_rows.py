"""Rows read a stretch at a time are those of the whole file, and what cannot be read is told."""

import numpy as np
import pytest

from energax import io
from energax.io import open_rows


def table(rows=5_000, columns=3):
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, columns)).round(6)


def check(path, whole):
    rows = open_rows(path)
    assert rows.num_rows == len(whole) and rows.shape == whole.shape[1:]
    for first, count in ((0, 1), (0, len(whole)), (1_023, 2), (2_047, 1_025), (len(whole) - 3, 3)):
        got = rows.read(first, count)
        assert got.shape == (count, *whole.shape[1:])
        np.testing.assert_allclose(got, whole[first : first + count], rtol=1e-12)
    assert rows.read(7, 0).shape == (0, *whole.shape[1:])
    for first, count in ((-1, 2), (len(whole) - 1, 2)):
        with pytest.raises(ValueError, match="were asked for"):
            rows.read(first, count)
    return rows


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_numpy_files(tmp_path, dtype):
    whole = (100 * table()).astype(dtype).reshape(-1, 3, 1)
    np.save(tmp_path / "a.npy", whole)
    rows = check(tmp_path / "a.npy", whole)
    assert rows.read(0, 2).dtype == dtype and rows.row_bytes == 3 * np.dtype(dtype).itemsize


def test_a_file_of_plain_numbers(tmp_path):
    whole = np.arange(3_000.0)
    np.save(tmp_path / "a.npy", whole)
    assert open_rows(tmp_path / "a.npy").shape == ()
    assert open_rows(tmp_path / "a.npy").read(100, 2).tolist() == [100, 101]


@pytest.mark.parametrize("group", [700, 100_000])
def test_parquet_files(tmp_path, group):
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = table()
    columns = {f"c{i}": whole[:, i] for i in range(3)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=group)
    check(tmp_path / "a.parquet", whole)


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_csv_files(tmp_path, names, delimiter, ending):
    whole = table()
    lines = [delimiter.join(map(repr, map(float, row))) for row in whole]
    lines = ([delimiter.join("abc")] if names else []) + lines
    (tmp_path / "a.csv").write_bytes(ending.join(lines).encode())
    check(tmp_path / "a.csv", whole)


def test_missing_cells_come_as_nan(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n,3\nNA,4\n")
    got = open_rows(tmp_path / "a.csv").read(0, 3)
    np.testing.assert_array_equal(got, [[1, 2], [np.nan, 3], [np.nan, 4]])


@pytest.mark.parametrize("mode, shape", [("L", (5, 4)), ("RGB", (5, 4, 3))])
def test_folders_of_images(tmp_path, mode, shape):
    from PIL import Image

    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (30, *shape), dtype=np.uint8)
    for i, pixels in enumerate(whole):
        Image.fromarray(pixels, mode).save(tmp_path / f"{i:03d}.png")
    (tmp_path / "notes.txt").write_text("no image")
    rows = open_rows(tmp_path)
    assert rows.num_rows == 30 and rows.shape == shape
    np.testing.assert_allclose(rows.read(4, 11), whole[4:15] / 255, atol=1e-6)
    before = rows.fingerprint()
    Image.fromarray(whole[0][:3], mode).save(tmp_path / "007.png")
    assert open_rows(tmp_path).fingerprint() != before
    with pytest.raises(ValueError, match=r"007.png has 4 × 3 pixels"):
        rows.read(0, 30)
    (tmp_path / "003.png").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"003.png is no readable image"):
        rows.read(3, 1)


def test_images_of_16_bits(tmp_path):
    from PIL import Image

    pixels = np.linspace(0, 65_535, 20).astype(np.uint16).reshape(4, 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_allclose(open_rows(tmp_path).read(0, 1)[0], pixels / 65_535, atol=1e-6)
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff has pixels of 32 bits"):
        open_rows(tmp_path).read(0, 2)


def test_the_fingerprint_sees_another_size_and_another_start(tmp_path):
    whole = table()
    np.save(tmp_path / "a.npy", whole)
    same = open_rows(tmp_path / "a.npy").fingerprint()
    np.save(tmp_path / "b.npy", whole)
    assert open_rows(tmp_path / "b.npy").fingerprint() == same
    whole[0, 0] += 1
    np.save(tmp_path / "b.npy", whole)
    assert open_rows(tmp_path / "b.npy").fingerprint() != same
    np.save(tmp_path / "b.npy", table(5_001))
    assert open_rows(tmp_path / "b.npy").fingerprint() != same


def test_what_holds_no_rows_of_numbers_is_refused(tmp_path):
    def refused(path, match, error=ValueError):
        with pytest.raises(error, match=match):
            open_rows(path).read(0, 1)

    refused(tmp_path / "none.npy", "no such data file", FileNotFoundError)
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "holds no images")
    (tmp_path / "a.txt").write_text("1")
    refused(tmp_path / "a.txt", "expected a file ending in")
    np.save(tmp_path / "a.npy", table())
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-16])
    refused(tmp_path / "cut.npy", "cut short: 16 bytes")
    np.save(tmp_path / "f.npy", np.asfortranarray(table()))
    refused(tmp_path / "f.npy", "by columns")
    np.save(tmp_path / "t.npy", np.array(["a"]))
    refused(tmp_path / "t.npy", "expected numbers")
    np.save(tmp_path / "e.npy", np.empty((0, 3)))
    refused(tmp_path / "e.npy", "no rows")
    (tmp_path / "bad.npy").write_bytes(b"nothing of the kind")
    refused(tmp_path / "bad.npy", "no complete NumPy file")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(ValueError, match=r"a.csv: after row 0.*Expected 2 columns, got 1"):
        open_rows(tmp_path / "a.csv").read(0, 2)
    (tmp_path / "words.csv").write_text("a,b\n1,2\n3,word\n")
    refused(tmp_path / "words.csv", "word")
    (tmp_path / "names.csv").write_text("a,b\n")
    refused(tmp_path / "names.csv", "no rows")
    (tmp_path / "empty.csv").write_text("")
    refused(tmp_path / "empty.csv", "no rows")
    io.write_data(tmp_path / "a.parquet", table())
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    refused(tmp_path / "cut.parquet", "no complete Parquet file")


def test_an_opened_file_that_became_shorter_is_told(tmp_path):
    np.save(tmp_path / "a.npy", table())
    rows = open_rows(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", table(100))
    with pytest.raises(ValueError, match="shorter"):
        rows.read(4_000, 10)
    (tmp_path / "a.csv").write_text("1,2\n" * 50)
    rows = open_rows(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("1,2\n" * 20)
    with pytest.raises(ValueError, match="shorter"):
        rows.read(10, 40)


def test_blank_lines_and_lines_of_missing_values(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"1\t2\n\t\n\n3\t4\n5\t6\n\n")
    rows = open_rows(tmp_path / "a.csv")
    assert rows.num_rows == 4
    np.testing.assert_array_equal(rows.read(1, 3), [[np.nan, np.nan], [3, 4], [5, 6]])
    (tmp_path / "b.csv").write_bytes(b"1,2\r3,4\r")
    with pytest.raises(ValueError, match="end in"):
        open_rows(tmp_path / "b.csv")
