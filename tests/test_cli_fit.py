"""Trainings on the command line: stopped, resumed, watched, penalised, stopped early."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.test_cli import binary_rows, run


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
