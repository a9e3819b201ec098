"""Compilation of loops by numba, which is optional."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Any], Any]:
    """Returns numba's decorator with the options of all loops of the package.

    The machine code is kept on the disk for later processes, if any of numba's folders is writable.
    """
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # the package and the home directory are read-only
            return numba.njit(**options)(function)

    return decorate
