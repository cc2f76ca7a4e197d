"""A table: gaps filled, strange rows found, by one model and with error bars.

    python recipes/tabular.py [--steps 4000]

scikit-learn's measurements of breast tissue, 30 real columns, standardised. The model is an RBM of
normal columns, trained on benign tissue alone.
"""

import argparse
import time

import numpy as np

import energax as ex


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    asked = parser.parse_args()
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    benign = np.random.default_rng(0).permutation(table.data[table.target == 1])
    malignant = table.data[table.target == 0]
    train, test = benign[:257], benign[257:]
    mean, sd = train.mean(0), train.std(0)
    train, test, malignant = ((x - mean) / sd for x in (train, test, malignant))
    space = ex.Real((30,))
    began = time.process_time()
    start = ex.energies.RBM.random(space, 16, data=train, key=ex.random.key(0), scale=0.05)
    run = ex.fit(start, train, key=ex.random.key(1), num_steps=asked.steps, early_stopping=0.2)
    print(f"trained in {time.process_time() - began:.0f} CPU s", *run.reasons)

    known, test = test[:50], test[50:]
    rows = np.concatenate([test, malignant])
    found = ex.anomaly_scores(run.energy, rows, held_out=known)
    benign, other = np.split(found.scores, [len(test)])
    false, true = (100 * part.mean() for part in np.split(found.is_anomaly, [len(test)]))
    stranger = 100 * (benign[:, None] < other).mean()
    print(f"a malignant row is stranger than a benign one: {stranger:.1f} %")
    print(f"called strange: {true:.0f} % of the malignant rows, {false:.0f} % of the benign")

    holes = test.copy()
    gone = np.random.default_rng(3).random(test.shape) < 0.2
    holes[gone] = np.nan
    filled = ex.impute(run.energy, holes, key=ex.random.key(4))
    error = np.sqrt(np.mean((filled.mean[gone] - test[gone]) ** 2))
    alone = np.sqrt(np.mean(test[gone] ** 2))
    told = "" if filled.reliable else f", NOT RELIABLE: {filled.reasons[0]}"
    print(f"rms error of a filled gap {error:.3f} sd, of the column's mean {alone:.3f}{told}")


if __name__ == "__main__":
    main()
