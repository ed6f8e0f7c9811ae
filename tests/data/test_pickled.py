"""Pickles that hold an array are read; pickles that hold anything else are refused, and nothing of them runs."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from data import pickled
from data.errors import InputError
from data.pickled import read_array


def as_numpy_1(content: bytes) -> bytes:
    """What numpy 1 wrote under protocols 0 to 3: the functions had another home then."""
    return content.replace(b"cnumpy._core.", b"cnumpy.core.", 1)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_all_protocols(tmp_path, protocol, dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype=dtype, order=order)
    for content in (pickle.dumps(array, protocol), as_numpy_1(pickle.dumps(array, protocol))):
        (tmp_path / "a.npy").write_bytes(content)
        found = read_array(tmp_path / "a.npy")
        assert found.dtype == array.dtype and np.array_equal(found, array)


@given(
    array=arrays(st.sampled_from(["<f4", ">f8", "<i2", "<u8"]), array_shapes(min_dims=0, max_dims=4, min_side=0)),
    protocol=st.integers(0, 5),
)
def test_any_array_survives(tmp_path_factory, array, protocol):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes(pickle.dumps(array, protocol))
    assert np.array_equal(read_array(path), array, equal_nan=True)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_axes_that_lie_otherwise_in_memory(tmp_path, protocol, axes):
    array = np.arange(24.0).reshape(2, 3, 4).transpose(axes)
    (tmp_path / "a.npy").write_bytes(pickle.dumps(array, protocol))
    assert np.array_equal(read_array(tmp_path / "a.npy"), array)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_array(tmp_path)


def test_a_true_npy_file(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(3))
    assert np.array_equal(read_array(tmp_path / "a.npy"), np.eye(3))


class Touch:
    """A pickle with code in it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_is_refused_and_not_run(tmp_path, inside, protocol):
    trap = Touch(tmp_path / "ran")
    value = np.array([trap, 1], dtype=object) if inside else trap
    (tmp_path / "a.npy").write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(InputError, match=r"a\.npy: refused, nothing of it was run") as error:
        read_array(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists() and "\n" not in str(error.value)


def test_code_in_a_true_npy_file_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Touch(tmp_path / "ran")], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as a numpy array"):
        read_array(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3],
        {"X": np.zeros(3)},
        np.array(["a"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1.0, 2.0], [0, 1]),
        np.float64(3.0),
        np.datetime64("2021-01-01"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_values_are_refused(tmp_path, value, protocol):
    (tmp_path / "a.npy").write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(InputError, match="only numpy arrays are admitted"):
        read_array(tmp_path / "a.npy")


def test_a_forged_dtype_cannot_turn_bytes_into_addresses(tmp_path):
    class Forged:
        def __reduce__(self):
            return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)

    class Array:
        def __reduce__(self):
            return (
                np._core.multiarray._reconstruct,
                (np.ndarray, (0,), b"b"),
                (1, (1,), Forged(), False, b"\x41" * 8),
            )

    (tmp_path / "a.npy").write_bytes(pickle.dumps(Array()))
    with pytest.raises(InputError, match="refused"):
        read_array(tmp_path / "a.npy")


@given(cut=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_in_one_line(tmp_path_factory, cut):
    path = tmp_path_factory.getbasetemp() / "cut.npy"
    content = pickle.dumps(np.arange(300.0), 4)
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(InputError, match=r"cut\.npy: ") as error:
        read_array(path)
    assert "\n" not in str(error.value)


@given(content=st.binary(max_size=60))
def test_noise_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "noise.npy"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_array(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.npy: missing"):
        read_array(tmp_path / "a.npy")


GLOBAL = b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x03K\x01r\xff\xff\xff\x7f.",  # a memo of 2 billion places
        b"\x80\x03" + GLOBAL + b"N}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.",  # sets an attribute of a name
        b"\x80\x03cnumpy\nndarray\n)\x81.",  # makes an object without calling its class
        b"\x80\x03" + GLOBAL + b"N(K\x01tb.",
        b"\x80\x03(K\x01K\x01t" + b"q\x00h\x00h\x00\x86" * 60 + b".",  # a tuple of 2 ** 60 places, if it were shown
        b"\x80\x03cnumpy\ndtype\n(K\x01K\x01t" + b"q\x00h\x00h\x00\x86" * 40 + b"\x85R.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # a terabyte of nothing
        b"\x80\x03c" + b"x" * 100_000 + b"\n\x1b[31m\n.",
        b"\x80\x03" + b"N" * 300 + b".",
    ],
)
def test_traps_are_refused_in_a_short_line_and_change_nothing(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_array(tmp_path / "a.npy")
    assert len(str(error.value)) < 400 and "\x1b" not in str(error.value)
    good = pickle.dumps(np.arange(3))
    (tmp_path / "b.npy").write_bytes(good)
    assert read_array(tmp_path / "b.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize("tail", [b"\x81.", b"Q.", b"cos\nsystem\n."])
def test_instructions_are_looked_through_before_any_is_followed(tmp_path, monkeypatch, tail):
    """An array may come first: it is not even built when something behind it is not admitted."""
    called = []
    monkeypatch.setattr(pickled._ArrayUnpickler, "find_class", lambda *names: called.append(names))
    (tmp_path / "a.npy").write_bytes(pickle.dumps(np.arange(3), 3)[:-1] + tail)
    with pytest.raises(InputError, match="refused, nothing of it was run"):
        read_array(tmp_path / "a.npy")
    assert not called


@pytest.mark.parametrize("shape", [(-1,), (2.0,), (True,), [4]])
def test_odd_shapes_are_refused(tmp_path, shape):
    class Odd:
        def __reduce__(self):
            return (
                np._core.multiarray._reconstruct,
                (np.ndarray, (0,), b"b"),
                (1, shape, np.dtype("u1"), False, b"abcd"),
            )

    (tmp_path / "a.npy").write_bytes(pickle.dumps(Odd(), 3))
    with pytest.raises(InputError, match="refused"):
        read_array(tmp_path / "a.npy")
