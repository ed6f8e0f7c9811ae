"""Read a pickled numpy array without executing the pickle.

A pickle is a program: loading one from the network runs whatever its author wished. Here its instructions are looked
through before any is followed; only the few that an array needs are admitted. The names that they may call are ours,
cannot be changed, and build plain numeric arrays. Not even numpy's own code for pickled state sees the file's bytes: a
forged dtype could make it read them as addresses.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError

NPY_MAGIC = b"\x93NUMPY"
NUMERIC = "biuf"
MAX_OPCODES = 200  # an array takes about forty
OPCODES = (
    "PROTO FRAME GLOBAL STACK_GLOBAL REDUCE BUILD STOP MARK TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE NONE NEWTRUE"
    " NEWFALSE INT LONG LONG1 BININT BININT1 BININT2 UNICODE BINUNICODE SHORT_BINUNICODE SHORT_BINBYTES BINBYTES"
    " BINBYTES8 BYTEARRAY8 PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET"
)


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
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        if content.startswith(NPY_MAGIC):
            array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            _look_through(content)
            array = _finished(_ArrayUnpickler(io.BytesIO(content)).load())
    except _Refused as error:
        raise InputError(f"{path}: refused, nothing of it was run: {error}; only numpy arrays are admitted") from error
    except Exception as error:  # a damaged pickle may fail in any way
        reason = str(error)[:80] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as a numpy array ({reason}); is it cut short? Fetch it again"
        ) from error
    if array.dtype.kind not in NUMERIC:
        raise InputError(f"{path}: an array of {array.dtype}, expected numbers")
    return array


class _Refused(Exception):
    pass


def _look_through(content: bytes) -> None:
    """Refuse instructions that no array needs, and more of them than one needs; follow none."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name == "GLOBAL":
            _admitted(*str(argument).split(" ", 1))
        if opcode.name not in OPCODES.split():
            raise _Refused(f"it holds another thing than an array (instruction {opcode.name})")
        if number >= MAX_OPCODES or ("PUT" in opcode.name and int(argument or 0) >= MAX_OPCODES):
            raise _Refused("it is no plain array")


class _Name:
    """A name that a pickle may call; it cannot be changed, nor made anew."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise _Refused("it changes a name")


class _Dtype:
    """Stands in for a numpy dtype while it is unpickled; admits numbers only."""

    __slots__ = ("value",)

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not re.fullmatch(f"[{NUMERIC}][0-9]{{1,2}}", code):
            raise _Refused(f"it holds an array of {_shown(code)}")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or (subtype, names, fields) != (None, None, None):
            raise _Refused("it holds a structured array")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands in for a numpy array while it is unpickled."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _from_bytes(content, dtype, shape, "F" if fortran is True or fortran == 1 else "C")


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not NDARRAY:
        raise _Refused("it holds an array of another type than numpy.ndarray")
    return _Array()


def _from_bytes(content: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
        raise _Refused("it holds an array without plain numbers")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _Refused("it holds an array of an odd shape")
    return np.frombuffer(content, dtype.value).reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    """Build what protocol 5 holds; with order K, numpy 2 says how the axes lie in memory."""
    if order not in ("C", "F") and not (order == "K" and isinstance(axes, tuple)):
        raise _Refused("it holds an array of an odd order")
    array = _Array()
    array.value = _from_bytes(content, dtype, shape, order)
    if order == "K":
        if sorted(axes) != list(range(len(shape))):
            raise _Refused("it holds an array of odd axes")
        array.value = array.value.transpose(axes)
    return array


def _latin_1(text: Any, encoding: Any = "latin1") -> bytes:
    """Turn text back into bytes: how protocols 0 to 2 keep them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused(f"it asks for the encoding {_shown(encoding)}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """Make the content of an empty array: how protocols 0 to 2 write it."""
    return b""


def _nothing(*_: Any) -> NoReturn:
    raise _Refused("it calls numpy.ndarray itself")


NDARRAY = _Name(_nothing)
_ADMITTED: dict[tuple[str, str], _Name] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _Name(_Dtype),
    ("numpy.core.multiarray", "_reconstruct"): _Name(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _Name(_from_buffer),
    ("numpy._core.numeric", "_frombuffer"): _Name(_from_buffer),
    ("_codecs", "encode"): _Name(_latin_1),
    ("__builtin__", "bytes"): _Name(_no_bytes),
}


def _admitted(module: str, name: str = "") -> _Name:
    if (module, name) not in _ADMITTED:
        raise _Refused(f"its pickle asks for {_shown(f'{module}.{name}')}")
    return _ADMITTED[module, name]


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _admitted(module, name)


def _shown(value: Any) -> str:
    """Quote what a file says, shortly; what is no text by its type alone."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def _finished(value: Any) -> NDArray[Any]:
    if not isinstance(value, _Array) or value.value is None:
        raise _Refused(f"it holds a {type(value).__name__.lstrip('_')}")
    return value.value
