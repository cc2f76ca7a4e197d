"""The main job, whole: what it promises on handwritten digits, and the page it leaves behind."""

import re

import pytest

from energax import demo


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path):
    said = []
    outcome = demo.run(tmp_path, seed=0, say=said.append)
    data = outcome.data
    assert outcome.reliable, outcome.reasons
    low, high = data["gain_interval"]
    assert data["gain_over_chow_liu"] >= 3 and low > 2.5 and high < 6
    assert data["log_z_std_err"] < 0.1
    assert data["rbm_log_likelihood"] > data["chow_liu_log_likelihood"]
    assert data["chow_liu_log_likelihood"] > data["independent_log_likelihood"]
    assert data["wrong_before"] == pytest.approx(0.1, abs=0.01)
    assert data["wrong_after_mean"] < 0.06
    assert data["auroc"]["energax RBM"] > 0.8
    assert data["accuracy_features"] > 0.9
    assert data["ring_log_z"] == pytest.approx(0, abs=0.01)
    for name in ("metropolis", "mala"):
        assert data[f"ring_{name}_mean"] == pytest.approx([-0.278, -0.671], abs=0.35)
    page = (tmp_path / "report.html").read_text()
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,', page)) >= 9
    assert not re.search(r'(src|href)="https?:', page)
