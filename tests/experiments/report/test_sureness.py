import numpy as np
import pandas as pd

from experiments.report.sureness import sureness


def test_means_by_hand():
    """Two sites, one with a temperature of 2, at which the odds 9 to 1 have become 3 to 1."""
    rows = pd.DataFrame(
        [
            ("a", "mf-scsn", "left", "left", "0.75", "0.25"),
            ("a", "mf-scsn", "right", "left", "0.75", "0.25"),
            ("b", "mf-scsn", "left", "left", "0.6", "0.4"),
            ("b", "local-site", "left", "right", "0.1", "0.9"),
        ],
        columns=["site", "method", "label", "predicted", "p_left", "p_right"],
    )
    table = sureness(rows, {"a": 2.0})
    assert list(table.index) == ["a", "b", "all"] and table["n_trials"].tolist() == [2, 1, 3]
    assert np.allclose(table["sure"], [0.75, 0.6, 0.7]) and np.allclose(table["right"], [0.5, 1, 2 / 3])
    assert np.isclose(table.loc["a", "log_loss"], -np.log([0.75, 0.25]).mean())
    assert np.isclose(table.loc["a", "sure_without"], 0.9)
    assert np.isclose(table.loc["a", "log_loss_without"], -np.log([0.9, 0.1]).mean())
    assert np.isnan(table.loc["b", "sure_without"])
