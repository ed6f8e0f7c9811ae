"""Read a pickled numpy array without executing the pickle.

A pickle is a program: loading one from the network runs whatever its author wished. Here it can name a handful of
functions only, all replaced by ours, which build plain numeric arrays and nothing else. Not even numpy's own code for
pickled state sees the file's bytes: a forged dtype could make it read them as addresses.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError

NPY_MAGIC = b"\x93NUMPY"
NUMERIC = "biuf"


def read_array(path: Path) -> NDArray[Any]:
    """Read one numeric array from a pickle, of numpy 1 or 2 and any protocol, or from a true .npy file.

    Raises
    ------
    InputError
        When the file is missing, cut short, or holds anything but one array of numbers; nothing of it is executed.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing") from error
    try:
        if content.startswith(NPY_MAGIC):
            found: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            found = _finished(_ArrayUnpickler(io.BytesIO(content)).load())
    except _Refused as error:
        raise InputError(f"{path}: refused, nothing of it was run: {error}; only numpy arrays are admitted") from error
    except Exception as error:  # a damaged pickle may fail in any way
        raise InputError(
            f"{path}: cannot be read as a numpy array ({error or type(error).__name__}); is it cut short?"
            " Fetch it again"
        ) from error
    if found.dtype.kind not in NUMERIC:
        raise InputError(f"{path}: an array of {found.dtype}, expected numbers")
    return found


class _Refused(Exception):
    pass


class _Dtype:
    """Stands in for a numpy dtype while it is unpickled; admits numbers only."""

    def __init__(self, code: str, *_: Any):
        self.value = np.dtype(str(code)) if str(code)[:1] in NUMERIC else None
        if self.value is None:
            raise _Refused(f"it holds an array of {code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subtype, names, fields, *_ = state
        if subtype is not None or names is not None or fields is not None:
            raise _Refused("it holds a structured array")
        assert self.value is not None
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands in for a numpy array while it is unpickled."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _from_bytes(content, dtype, shape, "F" if fortran else "C")


class _Ndarray:
    """Stands in for the name ``numpy.ndarray``; calling it makes nothing."""

    def __init__(self, *_: Any):
        raise _Refused("it calls numpy.ndarray itself")


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Ndarray:
        raise _Refused("it holds an array of another type than numpy.ndarray")
    return _Array()


def _from_bytes(content: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or dtype.value is None or not isinstance(content, bytes | bytearray):
        raise _Refused("it holds an array without plain numbers")
    return np.frombuffer(content, dtype.value).reshape(tuple(shape), order="F" if order == "F" else "C")


def _from_buffer(content: Any, dtype: Any, shape: Any, order: str, *_: Any) -> _Array:
    array = _Array()
    array.value = _from_bytes(content, dtype, shape, order)
    return array


def _latin_1(text: Any, encoding: Any = "latin1") -> bytes:
    """Turn text back into bytes: how protocols 0 to 2 keep them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused(f"it asks for the encoding {encoding!r}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """Make the content of an empty array: how protocols 0 to 2 write it."""
    return b""


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _latin_1,
    ("__builtin__", "bytes"): _no_bytes,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _Refused(f"its pickle asks for {module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"its pickle asks for the outside object {pid!r}")


def _finished(found: Any) -> NDArray[Any]:
    if not isinstance(found, _Array) or found.value is None:
        name = type(found).__name__.lstrip("_")
        raise _Refused(f"it holds a {name}")
    return found.value
