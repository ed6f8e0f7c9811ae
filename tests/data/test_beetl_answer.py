"""Answers and labels: 1000 codes, in a form that the organisers take."""

import shutil
import zipfile

import numpy as np
import pytest
from conftest import SHARED

from data.beetl_answer import read_codes, read_true_labels, write_answer
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
    with pytest.raises(InputError, match="cannot be read as text"):
        read_codes(tmp_path / "a.txt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("other.txt", "0")
    with pytest.raises(InputError, match=r"no answer\.txt in it"):
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
    with pytest.raises(InputError, match="not the organisers' labels"):
        read_true_labels(linked)


@pytest.mark.skipif(not (SHARED / "beetl").is_dir(), reason="../shared/beetl is not here")
def test_the_organisers_labels_are_known(tmp_path):
    shutil.copy(SHARED / "beetl/final_MI_label.txt", tmp_path)
    assert (found := read_true_labels(tmp_path)) is not None and np.bincount(found).tolist() == [250, 250, 500]
