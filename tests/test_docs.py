"""What README.md shows of the benchmark is what the kept results say."""

import runpy
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_readme_s_table_is_the_kept_results():
    figures = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))
    text = (REPOSITORY / "README.md").read_text()
    assert figures["with_table"](text) == text


def test_the_documentation_shows_the_kept_plots():
    figures = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))
    for name in figures["SHOWN"]:
        kept = (REPOSITORY / "experiments" / "benchmark" / "results" / name).read_bytes()
        assert (REPOSITORY / "docs" / "images" / name).read_bytes() == kept
