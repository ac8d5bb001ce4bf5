"""SimCLR: a few steps, their resumption, and the probes."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("example")  # the experiments can be imported


def test_simclr(tmp_path):
    import simclr

    def made():
        assert (tmp_path / "learned-0.png").stat().st_size > 5_000
        return json.loads((tmp_path / "results.json").read_text())

    simclr.main(["--smoke", "--out", str(tmp_path)])
    first = made()
    assert [row["arm"] for row in first["summary"]] == ["random crop", "without input", "ours"]
    assert all(len(run["history"]) == 1 and run["n"] == 32 for run in first["runs"])
    simclr.main(["--smoke", "--out", str(tmp_path), "--resume"])  # nothing is left to pretrain
    assert [run["history"] for run in made()["runs"]] == [run["history"] for run in first["runs"]]


def test_the_linear_probe_is_trained_to_the_end():
    """With 100 classes the first gradient is small already: a loose tolerance stops where nothing has been learned."""
    import simclr
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rng = np.random.default_rng(0)
    y = rng.integers(100, size=3000)
    x = 0.3 * rng.normal(size=(100, 16))[y] + 3 * rng.normal(size=(3000, 1)) + 0.25 * rng.normal(size=(3000, 16))
    halves = (x[:2000], y[:2000]), (x[2000:], y[2000:])
    held, right = simclr.probes(*halves)["linear"]
    best = LinearDiscriminantAnalysis().fit(*halves[0]).score(*halves[1])  # the truth's own family
    assert best > 0.8 and right.mean() > best - 0.05 and held > best - 0.1
