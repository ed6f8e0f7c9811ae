import ast
from pathlib import Path

import mne
from conftest import REPOSITORY, mfscsn, raw_of


def test_a_name_that_moves_the_cursor_reaches_no_terminal(tmp_path):
    raw = raw_of(cues=False)
    raw.set_annotations(mne.Annotations([2.0 + 6 * k for k in range(8)], 3.0, ["left\x1b[2J", "right"] * 4))
    (tmp_path / "rec").mkdir()
    for name in ("p1", "p2", "p3"):
        raw.save(tmp_path / "rec" / f"{name}\x1b[31m_raw.fif", verbose="ERROR")
    _, out, err = mfscsn("new", "fed.toml", "--site", "lab=rec", cwd=tmp_path)
    assert "left?[2J" in out, err
    assert "\x1b" not in out + err


def test_commands_print_through_one_door():
    for file in sorted((REPOSITORY / "experiments" / "cli").glob("*.py")):
        if file.name in ("say.py", "main.py"):
            continue
        for node in ast.walk(ast.parse(Path(file).read_text())):
            if not isinstance(node, ast.Call):
                continue
            echoes = isinstance(node.func, ast.Attribute) and node.func.attr == "echo"
            prints = isinstance(node.func, ast.Name) and node.func.id == "print" and not node.keywords
            assert not echoes and not prints, f"{file.name}, line {node.lineno}: say(...) prints"
