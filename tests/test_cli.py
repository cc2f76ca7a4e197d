"""The command line's contract: outputs, one JSON object, exit statuses, nothing half-written."""

import json
import os
import re
import signal
import subprocess
import sys
import time

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


def start_fit(folder, *extra):
    command = [sys.executable, "-m", "energax.cli", "fit", str(folder / "rows.npy"), "--out"]
    command += [
        str(folder / "run"),
        "--hidden",
        "8",
        "--num-steps",
        "10000",
        "--objective",
        "pcd:5",
    ]
    command += ["--checkpoint-every", "200", "--seed", "4", *extra]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A suite started in the background ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_checkpoint(folder, process, seconds=120):
    """Returns once the running fit has written a checkpoint."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if list((folder / "run" / "checkpoints").glob("*.json")):
            return
        assert process.poll() is None, "the fit ended before it could be stopped"
        time.sleep(0.05)
    raise AssertionError("no checkpoint was written in time")


def final_weights(run_dir):
    from energax import training

    energy = training.load(run_dir).energy
    return [np.asarray(a) for a in (energy.weight, energy.visible_bias, energy.hidden_bias)]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_a_stopped_fit_resumes_to_the_same_weights_bit_for_bit(tmp_path, capsys, how):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        np.save(folder / "rows.npy", binary_rows())
    process = start_fit(broken)
    wait_for_checkpoint(broken, process)
    process.send_signal(how)
    assert process.wait(60) == (-9 if how == signal.SIGKILL else 130)
    assert start_fit(whole).wait(300) == 0
    assert run("resume", broken / "run", capsys=capsys)[0] == 0
    for a, b in zip(final_weights(whole / "run"), final_weights(broken / "run"), strict=True):
        np.testing.assert_array_equal(a, b)


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


def test_fit_stops_early_and_says_where(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", binary_rows(80))
    fit = ["fit", tmp_path / "rows.npy", "--hidden", "6", "--num-steps", "200"]
    status, _, err = run(*fit, "--out", tmp_path / "bad", "--early-stopping", "1.5", capsys=capsys)
    assert status == 2 and "--early-stopping 1.5" in err and not (tmp_path / "bad").exists()
    options = ["--out", tmp_path / "run", "--early-stopping", "0.2", "--json"]
    status, out, _ = run(*fit, *options, capsys=capsys)
    answer = json.loads(out)["early_stopping"]
    assert status == 0 and answer["method"] == "exact" and answer["best_step"] <= 200
    page = tmp_path / "report.html"
    assert run("report", tmp_path / "run", "--out", page, "--json", capsys=capsys)[0] == 0
    assert "log-likelihood during training" in page.read_text()


def test_fit_recovers_and_says_what_it_did(tmp_path, capsys):
    """At a rate of 10³⁸ weights overflow, and still do after five halvings."""
    np.save(tmp_path / "rows.npy", binary_rows(80))
    fit = ["fit", tmp_path / "rows.npy", "--hidden", "6", "--num-steps", "20", "--recover"]
    fit += ["--learning-rate", "1e38", "--clip", "5"]
    status, out, _ = run(*fit, "--out", tmp_path / "run", "--strict", capsys=capsys)
    assert status == 3 and out.count("recovered: the ") == 5
    assert "instead of 1e+38" in out and "5 of 5 recoveries had been tried" in out
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["recover"] is True and told["clip"] == 5.0
    status, out, _ = run("resume", tmp_path / "run", "--json", capsys=capsys)
    assert status == 0 and [r["old"] for r in json.loads(out)["recoveries"]] == [
        1e38 / 2**i for i in range(5)
    ]


def test_a_sparse_pairwise_model_is_fitted_to_its_minimum(tmp_path, capsys):
    """L1 over all rows: couplings that the rows do not ask for end at 0, and the run resumes."""
    from energax import training

    np.save(tmp_path / "spins.npy", 2 * binary_rows() - 1)
    fit = ["fit", tmp_path / "spins.npy", "--objective", "pseudolikelihood", "--json"]
    fit += ["--optimizer", "lbfgs"]
    for name, strength in (("free", "0"), ("sparse", "0.12")):
        status, out, err = run(*fit, "--out", tmp_path / name, "--l1", strength, capsys=capsys)
        assert status == 0 and json.loads(out)["reliable"], (out, err)
    free, sparse = (
        np.asarray(training.load(tmp_path / name).energy.couplings) for name in ("free", "sparse")
    )
    first, second = np.triu_indices(8, 1)
    joined = second == first + 4  # binary_rows copies column i to i + 4
    assert (
        (free != 0).all() and (sparse[~joined] == 0).mean() > 0.7 and (sparse[joined] > 0.3).all()
    )
    status, out, _ = run("resume", tmp_path / "sparse", "--json", capsys=capsys)
    assert status == 0
    np.testing.assert_array_equal(
        sparse, np.asarray(training.load(tmp_path / "sparse").energy.couplings)
    )


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


def test_every_word_of_objective_names_one(tmp_path, capsys):
    from energax import jobs, objectives

    words = {
        "likelihood": objectives.MaximumLikelihood,
        "cd:3": objectives.ContrastiveDivergence,
        "pcd": objectives.PersistentCD,
        "pseudolikelihood": objectives.PseudoLikelihood,
        "ratio": objectives.RatioMatching,
        "flow": objectives.MinimumProbabilityFlow,
        "score": objectives.ScoreMatching,
        "sliced:2": objectives.SlicedScoreMatching,
        "denoising": objectives.DenoisingScoreMatching,
        "multiscale": objectives.MultiscaleDenoising,
        "nce:2": objectives.NoiseContrastive,
        "conditional-nce": objectives.ConditionalNCE,
        "discrepancy:8": objectives.EnergyDiscrepancy,
        "concrete": objectives.ConcreteScoreMatching,
        "replay:3": objectives.ReplayCD,
        "improved": objectives.ImprovedCD,
        "recovery:3": objectives.RecoveryLikelihood,
        "equilibrium": objectives.EquilibriumMatching,
        "transport": objectives.EnergyMatching,
    }
    for word, cls in words.items():
        assert type(jobs.parse_objective(word)) is cls
    assert jobs.parse_objective("sliced:2").num_slices == 2
    assert jobs.parse_objective("nce:2").num_noise == 2
    assert jobs.parse_objective("discrepancy:8").num_moves == 8
    assert jobs.parse_objective("discrepancy").num_moves == 16
    np.save(tmp_path / "reals.npy", np.random.default_rng(0).normal(1.0, 0.5, (200, 2)))
    fit = ["fit", tmp_path / "reals.npy", "--model", "mlp", "--num-steps", "20", "--json"]
    new = (
        "score",
        "sliced:2",
        "denoising",
        "multiscale",
        "nce:2",
        "conditional-nce",
        "discrepancy:2",
    )
    for word in new:
        status, out, _ = run(*fit, "--out", tmp_path / word[:5], "--objective", word, capsys=capsys)
        assert status == 0 and json.loads(out)
    rows = tmp_path / "bits.npy"
    np.save(rows, binary_rows())
    status, _, err = run(
        "fit", rows, "--out", tmp_path / "no", "--objective", "score", capsys=capsys
    )
    assert status == 2 and "real coordinates" in err and not (tmp_path / "no").exists()


def test_a_training_can_be_watched(tmp_path):
    rows = (np.random.default_rng(0).random((200, 5)) < 0.4).astype(int)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "run"
    options = ["--num-steps", "40", "--live", "--tensorboard", "--json"]
    assert run("fit", tmp_path / "rows.npy", "--out", out, *options)[0] == 0
    page = (out / "report.html").read_text()
    assert "step 40, training has ended" in page and 'http-equiv="refresh"' not in page
    (events,) = (out / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")


def test_a_resumed_training_repeats_no_event(tmp_path):
    from tests.training.test_board import events

    rows = (np.random.default_rng(0).random((200, 5)) < 0.4).astype(int)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "run"
    options = ["--num-steps", "60", "--checkpoint-every", "20", "--tensorboard", "--json"]
    assert run("fit", tmp_path / "rows.npy", "--out", out, *options)[0] == 0
    due = events(out / "tensorboard")
    for path in (out / "checkpoints").glob("step-00000006*.json"):
        path.unlink()  # as if it had been killed after step 60, before that was saved
    assert run("resume", out, "--tensorboard", "--json")[0] == 0
    found = events(out / "tensorboard")
    assert len(list((out / "tensorboard").iterdir())) == 2
    at = {step for _, step in due} & {step for _, step in found}
    assert 60 in at and {20, 40} <= at
    assert all(found[place] == due[place] for place in found if place in due)


def test_the_best_checkpoints_are_kept_and_gone_on_from(tmp_path, capsys):
    from energax import training

    np.save(tmp_path / "rows.npy", binary_rows(120))
    fit = ["fit", tmp_path / "rows.npy", "--hidden", "6", "--num-steps", "100", "--out"]
    fit += [tmp_path / "run", "--objective", "pcd:1", "--checkpoint-every", "20"]
    best = ["--keep-checkpoints", "1", "--keep-best", "2"]
    status, out, err = run(*fit, *best, capsys=capsys)
    assert status == 2 and "--early-stopping" in err and not (tmp_path / "run").exists()
    status, out, _ = run(*fit, *best, "--early-stopping", "0.2", "--json", capsys=capsys)
    answer = json.loads(out)
    assert status == 0 and len(answer["best"]) == 2
    assert answer["best"][0]["step"] == answer["early_stopping"]["best_step"]
    folder = tmp_path / "run" / "checkpoints"
    assert len(list(folder.glob("step-*.json"))) == 1
    assert {int(path.stem[5:]) for path in (folder / "best").glob("*.json")} == {
        each["step"] for each in answer["best"]
    }
    kept = training.load(tmp_path / "run", which="best")
    assert kept.num_steps == answer["best"][0]["step"]
    left = tmp_path / "run" / ".fit.json.99999999-0123abcd.tmp"  # no process has this number
    left.write_text("half")
    os.utime(left, (0, 0))
    status, out, _ = run("resume", tmp_path / "run", "--best", capsys=capsys)
    told = f"best checkpoints, by held-out log-likelihood: step {kept.num_steps} ("
    assert status == 0 and told in out
    assert not left.exists()
