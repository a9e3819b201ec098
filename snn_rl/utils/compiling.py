"""Compilation of loops by numba, which is optional."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Any], Any]:
    """Returns Numba's `njit` decorator with the options shared by all loops of the package.

    Compiled code is cached on disk if one of Numba's cache folders is writable.
    """
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # the package and the home directory are read-only
            return numba.njit(**options)(function)

    return decorate
