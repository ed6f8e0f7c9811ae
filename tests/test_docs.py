"""What README.md shows of the benchmark is what the kept results say."""

import functools
import re
import runpy
from pathlib import Path

import numpy as np
import torch

from data.simulated import simulated_dataset
from federation.contract import Contract
from mfscsn import MFSCSNClassifier

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_tables_of_the_pages_are_the_kept_results():
    figures = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))
    texts = {page: (REPOSITORY / page).read_text() for page in figures["PAGES"]}
    assert {name for text in texts.values() for name in figures["ROWS"].findall(text)} == set(figures["METHODS"])
    for page, text in texts.items():
        assert figures["with_rows"](text) == text, f"{page}: run `make figures`"


def test_the_pages_quote_what_the_benchmarks_print():
    """Of all pages, the numbers; `make figures` writes them anew."""
    figures = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))
    for page in figures["PAGES"]:
        text = (REPOSITORY / page).read_text()
        assert figures["with_printed"](text) == text, f"{page}: run `make figures`"


def test_every_interval_in_a_sentence_is_one_that_a_benchmark_prints():
    assert runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))["unprinted"]() == []


def test_the_pages_of_speed_quote_what_was_measured():
    figures = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))
    shown = set()
    for page in figures["SPEED_PAGES"]:
        text = (REPOSITORY / page).read_text()
        assert figures["with_speed"](text) == text, f"{page}: run `make figures`"
        shown |= {name for found in figures["RATIOS"].findall(text) for name in found} | set(
            figures["SPEED"].findall(text)
        )
    assert shown == {path.stem for path in figures["SPEEDS"].glob("*.json")}


def test_the_documentation_shows_the_kept_plots():
    figures = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))
    for name in figures["SHOWN"]:
        kept = (REPOSITORY / "experiments" / "benchmark" / "results" / name).read_bytes()
        assert (REPOSITORY / "docs" / "images" / name).read_bytes() == kept


def test_every_command_of_the_page_is_run_by_the_example():
    text = (REPOSITORY / "docs" / "commands.md").read_text()
    table = text[text.index("| command | what it does |") :].partition("\n\n")[0]
    script = (REPOSITORY / "examples" / "every_command.sh").read_text()
    commands = set(re.findall(r"`mfscsn ([\w-]+)", table)) - {"beetl"}
    assert {name for name in commands if f" mfscsn {name} " not in script} == set()
    for name in re.findall(r"`(\w+)`", next(line for line in table.splitlines() if "beetl" in line)):
        assert f" mfscsn beetl {name} " in script


def test_the_readme_is_short_and_its_python_runs(monkeypatch, capsys):
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.split()) <= 700
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    dataset = simulated_dataset("laboratory", {"n_subjects": 1, "n_runs": 1, "n_trials": 8})
    dataset.get_data = lambda *a, get=dataset.get_data, **k: {s: {"0train": d["0"]} for s, d in get(*a, **k).items()}
    monkeypatch.setattr("moabb.datasets.BNCI2014_001", lambda: dataset)
    monkeypatch.setattr("mfscsn.MFSCSNClassifier", functools.partial(MFSCSNClassifier, epochs=2), raising=False)
    exec(code, {})
    assert "MF-SCSN" in capsys.readouterr().out


def test_links_lead_somewhere():
    for page in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_each_key_and_each_command_has_its_place():
    figures = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))
    for page in figures["CODE_PAGES"]:
        text = (REPOSITORY / page).read_text()
        assert figures["with_code"](text) == text, f"{page}: run `make figures`"
    keys = figures["keys"]()
    assert all(f"| `{name}` |" in keys for name in Contract.model_fields) and "- **reference, bad_channels" in keys
    commands = figures["commands"]()
    assert "### mfscsn server train" in commands and "mfscsn compare RUN OTHER --csv table.csv" in commands


def test_the_body_of_the_page_on_extending_trains(monkeypatch):
    from mfscsn import bodies
    from mfscsn.branch import Branch, BranchTrials
    from mfscsn.network import Architecture
    from mfscsn.settings import Settings
    from mfscsn.training import predict, train_round

    (code,) = re.findall(r"```python\n(class PowerBody.*?)```", (REPOSITORY / "docs" / "extend.md").read_text(), re.S)
    space = {"torch": torch}
    exec(code, space)
    monkeypatch.setitem(bodies.BODIES, "power", space["PowerBody"])
    names = ("left_hand", "right_hand")
    network = Architecture(64, 64.0, "common-space", electrodes=("C3", "Cz", "C4"), body="power").build(
        {"a": Branch(3, 2, names)}
    )
    signals = np.random.default_rng(0).standard_normal((40, 3, 64)).astype(np.float32)
    labels = np.arange(40) % 2
    signals[labels == 0, 0] *= 3
    signals[labels == 1, 2] *= 3
    state = None
    for _ in range(20):
        _, state = train_round(
            network, {"a": BranchTrials(signals, labels, names)}, Settings(lr=0.02), seed=0, optimiser_state=state
        )
    assert (predict(network, signals, "a").argmax(1) == labels).mean() > 0.9
    assert set(network.common_state()) == {"body.mix.weight"}
