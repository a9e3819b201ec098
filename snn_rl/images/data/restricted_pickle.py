"""Reads the pickles of CIFAR's Python version, and nothing that could do harm.

A pickle may name any function of the machine and have it called. Here the three names that those
files need lead to stand-ins of our own, which hold bytes and run nothing; any other name is
refused before it is looked up.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.utils.errors import UserError


class _Type:
    """Stands in for `numpy.dtype`: unsigned bytes alone."""

    def __init__(self, code: bytes | str, *_: Any) -> None:
        if code not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"an array of type {code!r} instead of unsigned bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment, which a single byte does not have."""


class _Array:
    """Stands in for `numpy.ndarray`."""

    value: NDArray[np.uint8]

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError("an array without a type")
        order = np.frombuffer(data, np.uint8)
        self.value = order.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    """Stands in for the function of NumPy's that makes an array before its content is known."""
    return _Array()


_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no CIFAR file does"
            ) from None


def read_pickle(path: Path) -> dict[str, Any]:
    """Reads a pickled dictionary of numbers, text, lists and arrays of bytes.

    Returns:
        The dictionary; arrays are read-only uint8, and keys text even where Python 2 wrote them.

    Raises:
        UserError: The file is truncated, no such pickle, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"a {type(content).__name__} instead of a dictionary")
        return {
            key.decode() if isinstance(key, bytes) else str(key): value.value
            if isinstance(value, _Array)
            else value
            for key, value in content.items()
        }
    except Exception as error:  # damaged bytes are instructions too, and may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged or not a file of CIFAR's: {reason}") from None
