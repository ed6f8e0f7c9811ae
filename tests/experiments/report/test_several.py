"""One page of several runs."""

import pytest
from conftest import LoopGrid, mfscsn, refused

from experiments.evaluate import evaluate
from experiments.references import reference_jobs, train_references
from federation.server_app import federate


@pytest.fixture(scope="module")
def settings(tmp_path_factory, prepared):
    """Two seeds of one setting, below a folder, and one seed of another."""
    from conftest import tiny_toml

    from federation.contract import load_federation
    from federation.run_folder import RunFolder

    folder = tmp_path_factory.mktemp("settings")
    for place, training, rounds in (
        ("plain/seed-0", "", 2),
        ("plain/seed-1", "seed = 1", 2),
        ("fast", "lr = 0.01", 3),
    ):
        file = folder / "fed.toml"
        north = "secret_seed = 12345" if training else ""
        file.write_text(tiny_toml(training=training, north=north).replace("rounds = 2", f"rounds = {rounds}"))
        run = RunFolder.create(folder / place, load_federation(file), prepared, 1)
        federate(LoopGrid(run), run)
        train_references(run, reference_jobs(run), lambda done, total: None)
        evaluate(run)
    return folder


def test_settings_stand_side_by_side(settings, tmp_path):
    page = tmp_path / "page.html"
    _, done, _ = mfscsn("report", settings / "plain", settings / "fast", "--out", page, cwd=tmp_path)
    text = page.read_text()
    assert "report: " in done and "page.html" in done
    assert "training.lr" in text and "0.01" in text and "training.rounds" in text and "training.seed" not in text
    for words in ("plain: mf-scsn", "fast: local-site", "training loss by round", "subjects"):
        assert words in text.lower() or words in text
    assert (settings / "plain/seed-1/report.html").exists() and (settings / "fast/report.html").exists()
    assert str(settings) not in text and "12345" not in text
    assert {file.name for file in (tmp_path / "page-figures").iterdir()} >= {"scores.svg", "loss.svg"}


def test_seeds_of_one_setting_have_a_page_in_their_folder(settings, tmp_path):
    mfscsn("report", settings / "plain", cwd=tmp_path)
    text = (settings / "plain/report.html").read_text()
    assert "differ in their seeds alone" in text
    assert "mean over seeds" in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["fast", "--out", "x.html"], "--out x.html is of several runs; that of one is"),
        (["fast", "plain", "--results", "x.csv"], "--results x.csv is of a benchmark"),
        (["fast", "fast"], "do not differ; rename one"),
    ],
)
def test_what_does_not_fit_is_one_line(settings, tmp_path, words, line):
    assert line in refused("report", *[str(settings / w) if w in ("fast", "plain") else w for w in words], cwd=tmp_path)
