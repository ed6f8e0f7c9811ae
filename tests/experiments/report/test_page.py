from experiments.report.page import Section, TableOf, write_page


def test_a_column_that_says_nothing_is_not_shown(tmp_path):
    table = TableOf([("site", ""), ("targets", "number"), ("score", "number")], [["a", "-", "-"], ["b", "-", "71.0"]])
    assert [name for name, _ in table.shown.columns] == ["site", "score"]
    assert table.shown.rows == [["a", "-"], ["b", "71.0"]]
    assert TableOf([("site", "")], []).shown.columns == [("site", "")]
    write_page(tmp_path / "page.html", "t", "s", [Section("one", tables=[table])])
    text = (tmp_path / "page.html").read_text()
    assert "targets" not in text and '<td class="number">71.0</td>' in text


def test_figures_are_dark_where_the_page_is_and_a_wide_table_shows_that_it_goes_on(tmp_path):
    write_page(tmp_path / "page.html", "t", "s", [])
    style = (tmp_path / "page.html").read_text().partition("</style>")[0]
    dark = style.partition("prefers-color-scheme: dark")[2].partition("\n}")[0]
    assert "figure img" in dark and "invert" in dark and "#ffffff" not in dark
    assert "overflow-x: auto" in style and "scroll;" in style  # shadows that stay at the edges, beneath the table
