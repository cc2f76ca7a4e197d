"""`energax fit --stream`: rows that are never all in memory, the held-out ones apart from them."""

import json
import os
import re

import numpy as np
import pytest

from energax import cli, io, jobs, training


def run(*words, capsys):
    """(exit status, stdout, stderr)."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    out = capsys.readouterr()
    return stop.value.code or 0, out.out, out.err


def bits(num=3_000, seed=0):
    rng = np.random.default_rng(seed)
    rows = (rng.random((num, 6)) < [0.1, 0.3, 0.5, 0.7, 0.9, 0.5]).astype(np.uint8)
    rows[:, 5] = rows[:, 2]
    return rows


FIT = ["--hidden", 4, "--num-steps", 80, "--objective", "pcd:1", "--seed", 3, "--stream"]
FIT += ["--window", 400, "--checkpoint-every", 20]


def write(path, rows):
    if path.suffix == ".npy":
        np.save(path, rows)
    else:
        io.write_data(path, rows.astype(np.int64))
    return path


@pytest.fixture
def read_at_once(monkeypatch):
    """The most rows that were read from a file at a time."""
    from energax.io.tables import rows

    seen = []
    for kind in (rows._Numpy, rows._Csv, rows._Parquet, rows._Images):
        old = kind.read

        def read(self, first, count, old=old):
            seen.append(count)
            return old(self, first, count)

        monkeypatch.setattr(kind, "read", read)
    return seen


@pytest.mark.parametrize("ending", ["npy", "csv", "parquet"])
def test_a_file_is_trained_on_by_windows(tmp_path, capsys, read_at_once, ending):
    path = write(tmp_path / f"rows.{ending}", bits(20_000))
    out = tmp_path / "run"
    status, told, err = run("fit", path, "--out", out, *FIT, "--json", capsys=capsys)
    assert status == 0, err
    answer = json.loads(told)
    assert answer["num_rows"] == 16_000 and answer["num_steps"] == 80
    assert (
        "reads 400 of 16,000 rows at a time, 0.0 MB in float32" in err and "4,000 held out" in err
    )
    assert max(read_at_once) <= 1_000 < 20_000  # of the file, whatever the window
    settings = json.loads((out / "run.json").read_text())
    assert settings["stream"] is True and settings["window"] == 400 and settings["checksum"]
    assert training.load(out).energy.weight.shape == (6, 4)
    if ending != "npy":
        return
    # What came after is as with rows in memory: rows that training never saw judge the others.
    new = write(tmp_path / "new.npy", bits(50, seed=1))
    status, told, _ = run("score", out, new, "--out", tmp_path / "s.csv", "--json", capsys=capsys)
    assert status == 0 and json.loads(told)["num_rows"] == 50
    page = tmp_path / "report.html"
    assert run("report", out, "--out", page, "--json", capsys=capsys)[0] == 0 and page.exists()


def test_held_out_rows_are_apart_from_those_trained_on(tmp_path, capsys, monkeypatch):
    """By numbers that are rows: each window of the training, and all that are held out."""
    rows = np.arange(5_000.0)[:, None].repeat(2, 1) / 1_000
    path = write(tmp_path / "rows.npy", rows)
    seen = []
    old = training.loop.preparing.windows.Windows.load

    def load(self, number):
        found = old(self, number)
        seen.append(found[:, 0])
        return found

    monkeypatch.setattr(training.loop.preparing.windows.Windows, "load", load)
    fit = ["fit", path, "--stream", "--window", 500, "--num-steps", 150, "--model", "mlp"]
    fit += ["--objective", "score", "--hidden", 4, "--early-stopping", 0.1, "--seed", 5]
    status, out, err = run(*fit, "--out", tmp_path / "run", "--json", capsys=capsys)
    assert status == 0, err
    settings = {k: v for k, v in json.loads((tmp_path / "run" / "run.json").read_text()).items()}
    settings.pop("checksum")
    held_out = {round(1_000 * x) for x in jobs.held_out_rows(settings)[:, 0]}
    trained = {round(1_000 * float(x)) for x in np.concatenate(seen)}
    assert len(held_out) == 1_000 and len(trained) > 3_000 and not held_out & trained
    job = jobs.prepare(jobs.Settings(**settings), io.open_rows(path))
    watched = {round(1_000 * float(x)) for x in job.early_stopping.held_out[:, 0]}
    assert len(watched) == 400 and not watched & (trained | held_out)
    assert job.num_train == json.loads(out)["num_rows"] == 3_600


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_to_the_same_end(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "rows.npy", bits())
    options = [*FIT, "--early-stopping", 0.2, "--keep-best", 2, "--json"]
    status, due, err = run("fit", path, "--out", tmp_path / "a", *options, capsys=capsys)
    assert status == 0, err
    old = training.fit

    def dies(*given, callback, **rest):
        def callback(step, metrics):
            if step >= 50:
                raise Killed

        return old(*given, callback=callback, **rest)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(training, "fit", dies)
        cli.main(["fit", str(path), "--out", str(tmp_path / "b"), *map(str, options)])
    assert not (tmp_path / "b" / "fit.json").exists()
    status, got, err = run("resume", tmp_path / "b", "--json", capsys=capsys)
    assert status == 0, err
    due, got = json.loads(due), json.loads(got)
    assert {**got, "run": ""} == {**due, "run": ""} and len(due["best"]) == 2
    a, b = (training.load(tmp_path / name).energy for name in "ab")
    np.testing.assert_array_equal(a.weight, b.weight)
    changed = bits()
    changed[0] = 1 - changed[0]
    np.save(path, changed)
    status, _, err = run("resume", tmp_path / "b", capsys=capsys)
    assert status == 2 and "rows.npy has changed since the run was started" in err


def test_a_folder_of_images(tmp_path, capsys, read_at_once):
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(300):
        pixels = np.where(rng.random((4, 5)) < 0.3, 255, 0).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    fit = ["fit", folder, "--out", tmp_path / "run", "--num-steps", 20, "--batch-size", 20]
    fit += ["--hidden", 4, "--model", "mlp", "--window", 64, "--json"]
    status, out, err = run(*fit[:-3], "--json", capsys=capsys)
    assert status == 2 and "is a folder: --stream" in err and err.count("\n") == 1
    status, out, err = run(*fit, "--stream", capsys=capsys)
    assert status == 0, err
    assert json.loads(out)["num_rows"] == 240 and max(read_at_once) <= 300
    energy = training.load(tmp_path / "run").energy
    assert type(energy.space).__name__ == "Binary" and energy.space.shape == (4, 5)
    assert run("resume", tmp_path / "run", "--json", capsys=capsys)[0] == 0
    os.remove(folder / "007.png")
    status, _, err = run("resume", tmp_path / "run", capsys=capsys)
    assert status == 2 and "images has changed since the run was started" in err


def test_categories_are_encoded_as_they_come(tmp_path, capsys):
    path = write(tmp_path / "rows.csv", np.random.default_rng(0).integers(0, 3, (1_500, 4)))
    fit = ["fit", path, "--space", "categorical:3", "--model", "rbm", *FIT]
    status, _, err = run(*fit, "--out", tmp_path / "run", capsys=capsys)
    assert status == 0, err
    assert training.load(tmp_path / "run").energy.space.shape == (4, 3)


@pytest.mark.parametrize("looked_at", [128, 10_000])
def test_a_row_outside_the_space_is_named_by_its_place(tmp_path, capsys, monkeypatch, looked_at):
    """When its window comes, or before the start where it is among the first to be looked at."""
    monkeypatch.setattr(jobs.streams, "SHOWN", looked_at)
    rows = bits(6_000).astype(float)
    rows[4_321:4_324, 0] = 0.5  # some of them are trained on
    path = write(tmp_path / "rows.npy", rows)
    options = [*FIT, "--space", "binary", "--out", tmp_path / "run"]
    options[options.index("--num-steps") + 1] = 400
    status, out, err = run("fit", path, *options, capsys=capsys)
    assert status == 2 and out == "" and "Traceback" not in err
    told = re.search(r"rows\.npy, rows from ([\d,]+): expected only 0 and 1, got \S*0\.5", err)
    assert told is not None, err
    first = int(told[1].replace(",", ""))
    assert first <= 4_323 and (4_321 - first < 40 if looked_at == 128 else first < 10)
    assert (tmp_path / "run").exists() == (looked_at == 128)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--optimizer", "lbfgs", "--objective", "pseudolikelihood"],
            "--optimizer lbfgs goes over",
        ),
        (["--objective", "moments", "--model", "independent"], "--objective moments goes over"),
        (["--model", "independent"], "--stream: Bernoulli is fitted at once"),
        (["--array", "x"], "--array is for .npz"),
        (["--window", 50], "--window 50: expected a minibatch of 100 rows"),
        (["--test-fraction", 0.0001], "--test-fraction 0.0001"),
        (["--early-stopping", 0.0001], "--early-stopping 0.0001"),
        (["--space", "spin"], "rows from "),
    ],
)
def test_what_a_stream_cannot_do_is_refused(tmp_path, capsys, options, told):
    path = write(tmp_path / "rows.npy", bits())
    words = ["fit", path, "--out", tmp_path / "run", "--stream", *options]
    status, out, err = run(*words, capsys=capsys)
    assert status == 2 and out == "" and told in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_other_files_and_a_window_alone_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "rows.npz", x=bits())
    write(tmp_path / "rows.npy", bits())
    (tmp_path / "empty").mkdir()
    for name, options, told in (
        ("rows.npz", ["--stream"], ".npy, .csv, .parquet or a folder of images"),
        ("none.npy", ["--stream"], "no such data file"),
        ("empty", ["--stream"], "holds no images"),
        ("rows.npy", ["--window", 200], "give --stream, too"),
    ):
        words = ["fit", tmp_path / name, "--out", tmp_path / "run", *options]
        status, out, err = run(*words, capsys=capsys)
        assert status == 2 and out == "" and told in err and err.count("\n") == 1
        assert not (tmp_path / "run").exists()
