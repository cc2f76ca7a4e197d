"""The command line's contract: outputs, one JSON object, exit statuses, nothing half-written."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from energax import cli


def run(*arguments, capsys=None):
    """(exit status, stdout, stderr) of one command, in this process."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    out = capsys.readouterr() if capsys else None
    return stop.value.code or 0, out.out if out else "", out.err if out else ""


def binary_rows(num=400, seed=0):
    rng = np.random.default_rng(seed)
    rows = (rng.random((num, 8)) < 0.3).astype(float)
    rows[:, 4:] = np.where(rng.random((num, 4)) < 0.1, 1 - rows[:, :4], rows[:, :4])
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small trained run and its data file."""
    folder = tmp_path_factory.mktemp("run")
    np.save(folder / "rows.npy", binary_rows())
    options = ["--hidden", "6", "--num-steps", "300", "--json"]
    options += ["--learning-rate", "0.01", "--objective", "pcd:2"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", str(folder / "rows.npy"), "--out", str(folder / "run"), *options])
    assert not stop.value.code
    return folder


def test_every_command_on_a_run(trained, capsys):
    rows = binary_rows(20, seed=5)
    np.savetxt(trained / "new.csv", rows, delimiter=",", fmt="%g")
    holes = rows.copy()
    holes[0, 3] = np.nan
    np.save(trained / "holes.npy", holes)
    one = trained / "one.npy"
    np.save(one, rows[:1])
    run_dir, new = trained / "run", trained / "new.csv"

    def ask(*arguments):
        status, out, _ = run(*arguments, "--json", capsys=capsys)
        assert status == 0
        answer = json.loads(out)  # one object and nothing else
        assert isinstance(answer["reliable"], bool) and isinstance(answer["reasons"], list)
        return answer

    ask("sample", run_dir, "--num", 64, "--out", trained / "draws.npy")
    draws = np.load(trained / "draws.npy")
    assert draws.shape == (64, 8) and set(np.unique(draws)) <= {0.0, 1.0}
    z = ask("logz", run_dir)
    assert z["reliable"] and z["lower"] <= z["value"] <= z["upper"]
    answer = ask("score", run_dir, new, "--out", trained / "scores.csv")
    lines = (trained / "scores.csv").read_text().splitlines()
    assert len(lines) == 21 and "log_prob" in lines[0] and "p_value" in lines[0]
    assert -8 * np.log(2) * 1.5 < answer["mean_log_prob"] < 0
    ask("denoise", run_dir, new, "--noise", "flip:0.1", "--out", trained / "clean.npz")
    ask("impute", run_dir, trained / "holes.npy", "--out", trained / "filled.npy")
    filled = np.load(trained / "filled.npy")
    assert np.all(np.isfinite(filled)) and 0 <= filled[0, 3] <= 1
    np.testing.assert_array_equal(filled[1:], rows[1:])
    assert ask("features", run_dir, new, "--out", trained / "f.npy")["num_features"] == 6
    ratio = ask("ratio", run_dir, new, one)
    assert len(ratio["log_ratio"]) == 20 and ratio["log_ratio"][0] == 0
    ask("report", run_dir, "--out", trained / "report.html")
    page = (trained / "report.html").read_text()
    assert page.count("<img") >= 4 and not re.search(r'(src|href)="https?:', page)
    assert "What the hidden units see" in page and "6 hidden units" in page


def test_equal_seeds_give_equal_draws(trained, capsys):
    for name in ("a", "b"):
        run(
            "sample",
            trained / "run",
            "--num",
            16,
            "--seed",
            3,
            "--out",
            trained / f"{name}.npy",
            capsys=capsys,
        )
    np.testing.assert_array_equal(np.load(trained / "a.npy"), np.load(trained / "b.npy"))


def test_strict_makes_doubt_an_exit_status(trained, capsys):
    options = [
        "score",
        trained / "run",
        trained / "rows.npy",
        "--out",
        trained / "s.npz",
        "--strict",
    ]
    assert run(*options, capsys=capsys)[0] == 0
    np.save(trained / "few.npy", binary_rows(10))
    run("fit", trained / "few.npy", "--out", trained / "few", "--num-steps", 20, capsys=capsys)
    # two held-out rows give no p-value under 0.05
    options[1] = trained / "few"
    status, _, _ = run(*options, capsys=capsys)
    assert status == 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nan.csv", "1,0\n0,nan\n1,1\n", "missing"),
        ("ragged.csv", "1,0\n0\n1,1\n", "line 2"),
        ("words.csv", "a,b\nx,0\ny,1\n", "a"),
        ("empty.csv", "", "empty"),
        ("empty.npy", "", "npy"),
        ("data.txt", "1 2 3", ".csv"),
        ("one.csv", "1,0\n", "at least 2"),
        ("whole.csv", "0,5\n3,1\n2,2\n", "--space"),
    ],
)
def test_bad_data_is_one_clear_line_and_nothing_is_written(tmp_path, capsys, name, content, words):
    (tmp_path / name).write_text(content)
    status, out, err = run("fit", tmp_path / name, "--out", tmp_path / "run", capsys=capsys)
    assert status == 2 and out == ""
    assert words in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "nowhere.csv", "--out", "run"],
        ["fit"],
        ["nonsense"],
        ["sample", "not-a-run", "--out", "x.npy"],
        ["fit", "rows.npy", "--out", "run", "--space", "sphere"],
        ["fit", "rows.npy", "--out", "run", "--model", "oracle"],
        ["fit", "rows.npy", "--out", "run", "--objective", "cd:many"],
        ["fit", "rows.npy", "--out", "run", "--optimizer", "sgd"],
        ["fit", "rows.npy", "--out", "run", "--optimizer", "lbfgs", "--objective", "pcd"],
        ["fit", "rows.npy", "--out", "run", "--objective", "moments", "--l1", "0.1"],
        ["fit", "rows.npy", "--out", "run", "--optimizer", "lbfgs", "--recover"],
        ["fit", "rows.npy", "--out", "run", "--clip", "0"],
        ["fit", "rows.npy", "--out", "run", "--l2", "-1"],
        ["fit", "large.npy", "--out", "run", "--objective", "ratio"],
        ["fit", "rows.npy", "--out", "run", "--space", "spin"],
        ["fit", "rows.npy", "--out", "run", "--space", "ordinal:2", "--model", "rbm"],
        ["fit", "large.npy", "--out", "run", "--model", "rbm"],
    ],
)
def test_bad_usage_exits_2_in_one_line(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", binary_rows(30))
    np.save("large.npy", 1000 * np.random.default_rng(0).normal(size=(30, 4)))
    status, out, err = run(*arguments, capsys=capsys)
    assert status == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert not os.path.exists("run") and not os.path.exists("x.npy")


@pytest.mark.parametrize(
    ("space", "units"),
    [
        ("spin", "SpinUnits"),
        ("real", "GaussianUnits"),
        ("count", "CountUnits"),
        ("categorical:3", "SoftmaxUnits"),
    ],
)
def test_model_rbm_has_the_units_of_the_space(space, units):
    from energax import jobs, random

    rng = np.random.default_rng(0)
    rows = {
        "spin": rng.choice([-1.0, 1.0], (50, 4)),
        "real": rng.normal(0, 1, (50, 4)),
        "count": rng.poisson(2.0, (50, 4)),
        "categorical:3": rng.integers(0, 3, (50, 4)),
    }[space]
    known = jobs.parse_space(space, rows)
    points = jobs.as_points(known, rows)
    energy = jobs.build_model("rbm", known, points, 5, key=random.key(0))
    assert type(energy.visible).__name__ == units and energy.hidden.bias.shape == (5,)
    assert energy.space == known and np.isfinite(float(energy(points[0])))


def test_data_outside_the_models_space_are_refused(trained, tmp_path, capsys):
    np.save(tmp_path / "normal.npy", np.random.default_rng(0).normal(0, 10, (5, 8)))
    status, _, err = run(
        "score",
        trained / "run",
        tmp_path / "normal.npy",
        "--out",
        tmp_path / "s.csv",
        capsys=capsys,
    )
    assert status == 2 and "0 and 1" in err and not (tmp_path / "s.csv").exists()


def test_an_unwritable_folder_exits_1(trained, capsys):
    status, _, err = run("sample", trained / "run", "--out", "/proc/nowhere/x.npy", capsys=capsys)
    assert status == 1 and "Traceback" not in err


def test_resume_refuses_changed_data(trained, tmp_path, capsys):
    import shutil

    shutil.copytree(trained / "run", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    rows = np.load(settings["data"])
    rows[3, 1] = 1 - rows[3, 1]
    np.save(tmp_path / "rows.npy", rows)
    settings["data"] = str(tmp_path / "rows.npy")  # another place is no damage
    (tmp_path / "run" / "run.json").write_text(json.dumps(settings))
    status, _, err = run("resume", tmp_path / "run", capsys=capsys)
    assert status == 2 and "rows.npy has changed since the run was started" in err


def test_damaged_settings_are_refused_by_name(trained, tmp_path, capsys):
    import shutil

    shutil.copytree(trained / "run", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    text = path.read_text()

    def refused(content, words):
        path.write_bytes(content)
        for command in (["resume", tmp_path / "run"], ["logz", tmp_path / "run"]):
            status, out, err = run(*command, capsys=capsys)
            assert status == 2 and out == "" and "Traceback" not in err
            assert f"{path} is damaged: {words}" in err

    refused(text[:100].encode(), "it is no complete JSON object")
    refused(b"[]", "it is no complete JSON object")
    refused(text.encode().replace(b"pcd", b"pc\xe4"), "it is no complete JSON object")
    # Nothing else would tell: a run goes on with the learning rate that it is given.
    refused(text.replace("0.01", "0.03").encode(), "it was changed after it was written")
    settings = json.loads(text)
    del settings["checksum"]  # of an earlier energax
    path.write_text(json.dumps(settings))
    assert run("logz", tmp_path / "run", capsys=capsys)[0] == 0
    path.write_text(json.dumps({**settings, "sede": 1}))
    status, _, err = run("resume", tmp_path / "run", capsys=capsys)
    assert status == 2 and "run.json is not of this energax, or damaged" in err and "sede" in err


def test_runs_are_compared(trained, tmp_path, capsys):
    rows = binary_rows(60, seed=7)
    np.save(tmp_path / "new.npy", rows)
    other = tmp_path / "independent"
    options = ["--model", "independent", "--json"]
    assert run("fit", trained / "rows.npy", "--out", other, *options, capsys=capsys)[0] == 0
    first = trained / "run"
    status, out, _ = run("compare", first, other, tmp_path / "new.npy", "--json", capsys=capsys)
    answer = json.loads(out)
    assert status == 0 and answer["best"] == str(first)
    assert answer["names"] == [str(first), str(other)] and answer["num_rows"] == 60
    assert answer["lower"][0][1] < answer["difference"][0][1] < answer["upper"][0][1]
    status, out, _ = run(
        "compare", first, other, tmp_path / "new.npy", "--baseline", other, capsys=capsys
    )
    assert status == 0 and f"minus {other}" in out and "may be the best" in out
    for arguments, words in (
        ([first], "one RUN or more, and then DATA"),
        ([first, first, tmp_path / "new.npy"], "given twice"),
        ([tmp_path, tmp_path / "new.npy"], "folder written by `energax fit`"),
        ([first, tmp_path / "new.npy", "--baseline", other], "no model is called"),
    ):
        status, out, err = run("compare", *arguments, capsys=capsys)
        assert status == 2 and words in err and out == "" and err.count("\n") == 1


@pytest.mark.parametrize("case", ["usual", "set", "unwritable"])
def test_compilations_are_kept_where_they_can_be(tmp_path, case):
    """In the user's cache folder, unless the user says otherwise or it is not to be written."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    if case == "set":
        environment["JAX_COMPILATION_CACHE_DIR"] = ""
    if case == "unwritable":
        (tmp_path / "cache").write_text("a file, no folder")
    code = """
from energax.cli import choose
choose._keep_compilations()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: x + 1)(1), jax.config.jax_compilation_cache_dir)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("2 "), done.stderr
    kept = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] if case != "set" else []
    assert bool(kept) == (case == "usual")
    assert (str(tmp_path) in done.stdout) == (case == "usual")
