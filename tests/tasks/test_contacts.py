"""Alignments are read as they stand, relatives share a vote, and planted contacts are found."""

import numpy as np
import pytest

import energax as ex
from energax.energies import GeneralPotts
from energax.objectives import Penalised, PseudoLikelihood

FASTA = """>one first
ACD-EF
GHk.I
; a comment
>two
AC-DEF
GXI
>three

acACDDEFGHI
"""


def test_fasta_and_a3m(tmp_path):
    path = tmp_path / "family.fasta"
    path.write_text(FASTA)
    names, rows, alphabet = ex.read_alignment(path)
    assert names == ("one first", "two", "three")
    assert ["".join(alphabet[i] for i in row) for row in rows] == [
        "ACD-EFGHI",
        "AC-DEFG-I",
        "ACDDEFGHI",
    ]
    assert alphabet[0] == "-" and len(alphabet) == 21 and rows.dtype == np.int32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found none"),
        ("ACDE\n", "line 1: expected a name"),
        (">a\nACD\n>b\nAC\n", "'a' has 3 columns and 'b' has 2"),
        (">a\n\n>b\n\n", "align them first"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    path = tmp_path / "family.fasta"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        ex.read_alignment(path)


def test_weights_are_one_over_the_number_of_relatives():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, (60, 10))
    rows[20:30] = rows[0]
    rows[20:30, 0] = rng.integers(0, 4, 10)
    found = ex.sequence_weights(rows, identity=0.8)
    same = (rows[:, None] == rows[None]).mean(-1)
    np.testing.assert_allclose(found, 1 / (same >= 0.8 - 1e-9).sum(1))
    assert found.min() < 0.2 and found.sum() < 55
    with pytest.raises(ValueError, match="identity"):
        ex.sequence_weights(rows, identity=1.5)
    with pytest.raises(ValueError, match="whole numbers"):
        ex.sequence_weights(rows.astype(float))


def test_planted_contacts_are_the_best_scores():
    rng = np.random.default_rng(1)
    sites, k = 12, 5
    contacts = [(0, 5), (1, 9), (2, 7), (3, 10), (4, 8), (6, 11)]
    pairs = list(zip(*np.triu_indices(sites, 1), strict=True))
    tables = np.zeros((len(pairs), k, k))
    for pair in contacts:
        tables[pairs.index(pair)] = rng.normal(0, 1.0, (k, k))
    truth = GeneralPotts(tables, rng.normal(0, 0.5, (sites, k)))
    draws = ex.sample(truth, 3_000, key=ex.random.key(0))
    assert draws.reliable
    rows = draws.flat()
    start = GeneralPotts.zeros(truth.space, rows)
    objective = Penalised(PseudoLikelihood(weights=ex.sequence_weights(rows)), l2=0.01)
    fit = ex.fit(start, rows, objective, key=ex.random.key(1), optimizer="lbfgs")
    assert fit.reliable, fit.reasons
    scores = ex.contact_scores(fit.energy, gap=None)
    assert np.array_equal(scores, scores.T) and not np.diag(scores).any()
    order = np.argsort(-scores[np.triu_indices(sites, 1)])
    assert {pairs[i] for i in order[: len(contacts)]} == set(contacts)
    # By hand: norms in the zero-sum gauge, less the product of the means.
    j = np.asarray(fit.energy.zero_sum().couplings, float)
    norms = np.zeros((sites, sites))
    norms[np.triu_indices(sites, 1)] = np.sqrt((j[:, 1:, 1:] ** 2).sum((1, 2)))
    norms += norms.T
    mean = norms.sum(1) / (sites - 1)
    expected = norms[2, 7] - mean[2] * mean[7] / mean.mean()
    assert abs(ex.contact_scores(fit.energy)[2, 7] - expected) < 1e-6
