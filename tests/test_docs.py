"""What README.md shows of the benchmark is what the kept results say."""

import re
import runpy
from pathlib import Path

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


def test_the_documentation_shows_the_kept_plots():
    figures = runpy.run_path(str(REPOSITORY / "docs" / "figures.py"))
    for name in figures["SHOWN"]:
        kept = (REPOSITORY / "experiments" / "benchmark" / "results" / name).read_bytes()
        assert (REPOSITORY / "docs" / "images" / name).read_bytes() == kept


def test_every_command_of_the_readme_is_run_by_the_example():
    text = (REPOSITORY / "README.md").read_text()
    table = text[text.index("| command | what it does |") :].partition("\n\n")[0]
    script = (REPOSITORY / "examples" / "every_command.sh").read_text()
    commands = set(re.findall(r"`mfscsn (\w+)", table)) - {"beetl"}
    assert {name for name in commands if f" mfscsn {name} " not in script} == set()
    for name in re.findall(r"`(\w+)`", next(line for line in table.splitlines() if "beetl" in line)):
        assert f" mfscsn beetl {name} " in script
