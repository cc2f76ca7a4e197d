"""Rows held out of a file that is read bit by bit: no row in both parts, none lost, and by seed."""

import numpy as np
import pytest

from energax import io


def numbered(path, num):
    np.save(path, np.arange(float(num))[:, None].repeat(2, 1))
    return io.open_rows(path)


def numbers(rows, first=0, count=None):
    return rows.read(first, rows.num_rows - first if count is None else count)[:, 0].astype(int)


@pytest.mark.parametrize("num", [5, 100, 1_000, 3_456])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_every_row_is_in_one_part(tmp_path, num, share):
    rows = numbered(tmp_path / "a.npy", num)
    train, held = io.hold_out(rows, share, seed=3)
    a, b = numbers(train), numbers(held)
    assert sorted([*a, *b]) == list(range(num)) and (np.diff(a) > 0).all()
    assert abs(len(b) - share * num) <= 1 and len(b) == held.num_rows
    if num >= 1_000:  # the same share of every thousand, at no place more than at others
        assert (np.bincount(b // 1_000)[: num // 1_000] == round(1_000 * share)).all()
        spread = np.std(b[b < 1_000]) / np.sqrt(1e6 / 12)
        assert abs(spread - 1) < 0.15


def test_a_stretch_is_that_of_the_whole(tmp_path):
    train, held = io.hold_out(numbered(tmp_path / "a.npy", 2_700), 0.3, seed=1)
    for part in (train, held):
        whole = numbers(part)
        for first, count in ((0, 1), (650, 120), (part.num_rows - 5, 5), (7, 0)):
            assert list(numbers(part, first, count)) == list(whole[first : first + count])
        with pytest.raises(ValueError, match="were asked for"):
            part.read(part.num_rows - 1, 2)
        assert part.where(620) == f"{tmp_path / 'a.npy'}, rows from {whole[620]:,}"


def test_the_seed_decides_and_the_fingerprint_knows(tmp_path):
    rows = numbered(tmp_path / "a.npy", 2_000)
    told = {}
    for share, seed in ((0.2, 0), (0.2, 1), (0.3, 0)):
        train, held = io.hold_out(rows, share, seed=seed)
        again = io.hold_out(rows, share, seed=seed)[1]
        assert list(numbers(again)) == list(numbers(held))
        assert again.fingerprint() == held.fingerprint()
        told[share, seed] = tuple(numbers(held)[:200])
        told["print", share, seed] = held.fingerprint()
        assert train.fingerprint() != held.fingerprint()
    assert len(set(told.values())) == 6


def test_parts_of_parts_share_no_row(tmp_path):
    train, held = io.hold_out(numbered(tmp_path / "a.npy", 4_100), 0.2, seed=0)
    inner, watched = io.hold_out(train, 0.1, seed=0)
    parts = [set(numbers(part)) for part in (held, inner, watched)]
    assert sum(map(len, parts)) == 4_100 == len(set.union(*parts))
    assert watched.where(0).endswith(f"rows from {min(parts[2]):,}")


def test_a_few_rows_are_from_all_over_the_file(tmp_path):
    rows = numbered(tmp_path / "a.npy", 10_000)
    few = io.a_few(rows, 640)[:, 0]
    assert len(few) == 640 == len(set(few)) and (np.diff(few) > 0).all()
    assert (
        few.min() == 0 and few.max() > 9_900 and np.bincount((few // 1_000).astype(int)).min() > 40
    )
    assert len(io.a_few(rows, 20)) == 20
    np.testing.assert_array_equal(io.a_few(rows, 10_000), rows.read(0, 10_000))


def test_a_share_that_leaves_no_row_is_refused(tmp_path):
    rows = numbered(tmp_path / "a.npy", 3)
    for share in (0.0, 0.1, 0.9, 1.0, 1.5):
        with pytest.raises(ValueError, match="at least one of each is needed"):
            io.hold_out(rows, share, seed=0)
    with pytest.raises(ValueError, match="at least one of each"):
        io.hold_out(numbered(tmp_path / "b.npy", 5_000), 0.0004, seed=0)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_true_and_false_are_1_and_0(tmp_path, ending):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    bits = rng.random((3_000, 3)) < 0.4
    numbers = rng.normal(size=3_000).round(3)
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        columns = {f"c{i}": bits[:, i] for i in range(3)} | {"x": numbers}
        pq.write_table(pa.table(columns), path, row_group_size=700)
    else:
        words = np.where(bits, "true", "false")
        words[1_500:, 1] = bits[1_500:, 1].astype(int)  # either, in one column
        lines = [",".join([*row, str(x)]) for row, x in zip(words, numbers, strict=True)]
        path.write_text("\n".join(lines) + "\n")
    whole = np.column_stack([bits, numbers])
    rows = io.open_rows(path)
    assert rows.num_rows == 3_000
    for first, count in ((0, 3_000), (1_000, 1_000), (2_990, 10)):
        np.testing.assert_array_equal(rows.read(first, count), whole[first : first + count])
    np.testing.assert_array_equal(io.read_data(path).astype(float), whole)


def test_other_words_are_refused_as_ever(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\ntrue,1\nyes,0\n")
    with pytest.raises(ValueError, match=r"CSV conversion error"):
        io.open_rows(tmp_path / "a.csv").read(0, 2)
