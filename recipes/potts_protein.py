"""Which columns of an alignment touch? A Potts model of a family whose contacts were planted.

python recipes/potts_protein.py [--sequences 4000]
"""

import argparse
import time

import numpy as np

import energax as ex

COLUMNS, CONTACTS = 24, [(0, 13), (1, 14), (2, 18), (3, 10), (5, 21), (6, 15), (8, 19), (11, 23)]


def family():
    """A Potts model on 20 letters and the gap, couplings at the contacts alone."""
    rng = np.random.default_rng(0)
    k = len(ex.io.PROTEIN)
    pairs = [(int(i), int(j)) for i, j in zip(*np.triu_indices(COLUMNS, 1), strict=True)]
    tables = np.zeros((len(pairs), k, k))
    for pair in CONTACTS:
        tables[pairs.index(pair)] = rng.normal(0, 1.0, (k, k))
    return ex.energies.GeneralPotts(tables, rng.normal(0, 0.7, (COLUMNS, k)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=4000)
    asked = parser.parse_args()
    rows = ex.sample(family(), asked.sequences, key=ex.random.key(0)).flat()
    rows = np.asarray(rows)[: asked.sequences]
    space = ex.Categorical((COLUMNS,), len(ex.io.PROTEIN))
    objective = ex.objectives.Penalised(ex.objectives.PseudoLikelihood(), l2=0.01)
    start = ex.energies.GeneralPotts.zeros(space, rows)
    began = time.process_time()
    run = ex.fit(start, rows, objective, key=ex.random.key(1), optimizer="lbfgs")
    print(f"{run.num_steps} evaluations, {time.process_time() - began:.0f} CPU s", *run.reasons)
    scores = ex.contact_scores(run.energy)
    upper = np.stack(np.triu_indices(COLUMNS, 1), 1)
    best = upper[np.argsort(-scores[tuple(upper.T)])[: len(CONTACTS)]]
    right = sum((int(i), int(j)) in CONTACTS for i, j in best)
    print(f"of the {len(CONTACTS)} strongest pairs {right} are contacts")


if __name__ == "__main__":
    main()
