"""Which columns of an alignment touch? Weights of sequences, and scores of pairs of columns."""

import numpy as np

from energax.energies.lattice import GeneralPotts

_BLOCK = 1024  # sequences compared at once


def sequence_weights(rows: np.ndarray, *, identity: float = 0.8) -> np.ndarray:
    """1 over the number of sequences that are as good as alike, itself included, for each row.

    Sequences of a family are no independent draws: near relatives share one vote (Morcos et al.
    2011, section "Methods"; Ekeberg et al. 2013, eq. 6). The sum is the effective number of rows.

    **Arguments:** `rows`: (rows, columns) of whole numbers. `identity`: the share of columns, from
    which on two are alike.

    **Returns:** float64 (rows,), for `PseudoLikelihood(weights=)`.

    **Raises:** ValueError for another shape or an identity outside 0 to 1.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or 0 in rows.shape:
        raise ValueError(
            f"rows: expected whole numbers (rows, columns), got {rows.dtype} of shape {rows.shape}"
        )
    if not 0 < identity <= 1:
        raise ValueError(f"identity: expected a share above 0 and up to 1, got {identity}")
    k = int(rows.max()) + 1
    onehot = (rows[:, :, None] == np.arange(k)).reshape(len(rows), -1).astype(np.float32)
    least = identity * rows.shape[1] - 1e-3
    alike = np.zeros(len(rows))
    for start in range(0, len(rows), _BLOCK):
        same = onehot[start : start + _BLOCK] @ onehot.T
        alike[start : start + _BLOCK] = (same >= least).sum(axis=1)
    return 1 / alike


def contact_scores(energy: GeneralPotts, *, gap: int | None = 0) -> np.ndarray:
    """How strongly two sites are coupled beyond what their other couplings explain.

    S_ij = F_ij − F_i F_j / F with F_ij the Frobenius norm of the pair's table in the zero-sum gauge
    and F_i, F its means over a row and over all (Ekeberg et al. 2013, eq. 7 and 8; the average
    product correction of Dunn, Wahl & Gloor 2008).

    **Arguments:** `gap`: a value whose row and column of the tables are left out of the norm, as
    gaps come in runs; None leaves none out.

    **Returns:** float64 (sites, sites), symmetric, 0 on the diagonal. High is coupled.
    """
    sites, k = energy.fields.shape
    tables = np.asarray(energy.zero_sum().couplings, np.float64)
    kept = [a for a in range(k) if a != gap]
    norms = np.sqrt((tables[:, kept][:, :, kept] ** 2).sum(axis=(1, 2)))
    f = np.zeros((sites, sites))
    f[np.triu_indices(sites, 1)] = norms
    f += f.T
    mean = f.sum(axis=1) / (sites - 1)
    scores = f - np.outer(mean, mean) / max(mean.mean(), 1e-300)
    np.fill_diagonal(scores, 0.0)
    return scores
