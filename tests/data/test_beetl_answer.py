"""Answers and labels: 1000 codes, in a form that the organisers take."""

import shutil
import zipfile

import numpy as np
import pytest
from conftest import SHARED

from data.beetl import check_sums
from data.beetl_answer import read_codes, read_label_file, read_true_labels, write_answer
from data.errors import InputError


def test_an_answer_comes_back_from_text_and_zip(tmp_path):
    codes = np.random.default_rng(0).integers(0, 3, 1000)
    write_answer(tmp_path, codes)
    first = (tmp_path / "answer.zip").read_bytes()
    assert np.array_equal(read_codes(tmp_path / "answer.txt"), codes)
    assert np.array_equal(read_codes(tmp_path / "answer.zip"), codes)
    assert zipfile.ZipFile(tmp_path / "answer.zip").namelist() == ["answer.txt"]
    write_answer(tmp_path, codes)
    assert (tmp_path / "answer.zip").read_bytes() == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n" * 999, "999 codes, expected 1000"),
        ("0\n" * 1001, "1001 codes, expected 1000"),
        ("0\n" * 10 + "3\n" + "0\n" * 989, "code 11 is '3', expected 0, 1 or 2"),
        ("left\n" * 1000, "code 1 is 'left'"),
        ("", "0 codes"),
    ],
)
def test_what_is_no_answer_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_codes(tmp_path / "a.txt")
    assert "a.txt" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_codes(tmp_path / "a.txt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("other.txt", "0")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a/answer.txt", "0")
        archive.writestr("b/answer.txt", "0")
    with pytest.raises(InputError, match=r"2 files answer\.txt in it"):
        read_codes(tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "folder.zip", "w") as archive:  # as a file manager packs a folder
        archive.writestr("mine/answer.txt", "0\n1\n" * 500)
        archive.writestr("__MACOSX/mine/._answer.txt", b"\x00\xff")
    assert read_codes(tmp_path / "folder.zip").tolist() == [0, 1] * 500
    with pytest.raises(InputError, match=r"no answer\.txt in it, but \['other.txt'\]"):
        read_codes(tmp_path / "a.zip")
    with pytest.raises(InputError, match="no such file"):
        read_codes(tmp_path / "none.txt")


def test_wrong_labels_are_refused_and_missing_ones_are_none(linked):
    assert (found := read_true_labels(linked)) is not None and len(found) == 1000
    path = linked / "final_MI_label.txt"
    lines = path.read_text().split()
    path.unlink()
    assert read_true_labels(linked) is None
    path.write_text("\n".join([*lines[200:], *lines[:200]]))
    with pytest.raises(InputError, match="neither the organisers' labels nor those"):
        read_true_labels(linked)


@pytest.mark.skipif(not (SHARED / "beetl").is_dir(), reason="../shared/beetl is not here")
def test_the_organisers_labels_are_known(tmp_path):
    shutil.copy(SHARED / "beetl/final_MI_label.txt", tmp_path)
    assert (found := read_true_labels(tmp_path)) is not None and np.bincount(found).tolist() == [250, 250, 500]


def test_forms_that_other_tools_write(tmp_path):
    codes = np.tile([0, 1, 2, 2], 250)
    np.savetxt(tmp_path / "floats.txt", codes)
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbf" + "".join(f"{code}\r\n" for code in codes).encode())
    for name in ("floats.txt", "windows.txt"):
        assert np.array_equal(read_codes(tmp_path / name), codes)


def test_labels_with_windows_line_endings_are_the_same_labels(linked):
    path = linked / "final_MI_label.txt"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    assert check_sums(linked) > 0 and read_true_labels(linked) is not None


def test_zips_that_cannot_be_used(tmp_path):
    write_answer(tmp_path, np.zeros(1000, np.int64))
    whole = (tmp_path / "answer.zip").read_bytes()
    for name, content in {
        "cut.zip": whole[:60],
        "noise.zip": b"noise",
        "damaged.zip": whole[:45] + b"\xff" * 8 + whole[53:],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: "):
            read_codes(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("answer.txt", b"0\n" * 10_000_000)
    with pytest.raises(InputError, match="far too long"):
        read_codes(tmp_path / "bomb.zip")
    with zipfile.ZipFile(tmp_path / "bz.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("answer.txt", "0\n" * 1000)
    with pytest.raises(InputError, match="not admitted; zip it plainly"):
        read_codes(tmp_path / "bz.zip")
    with pytest.raises(InputError, match="a folder, expected a file of codes"):
        read_codes(tmp_path)


def test_an_answer_in_the_place_of_labels_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("0\n1\n" * 500)
    with pytest.raises(InputError, match="no trial has code 2; true labels were expected"):
        read_label_file(tmp_path / "a.txt")
