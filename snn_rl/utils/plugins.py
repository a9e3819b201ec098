"""Objects of the user's own modules, named on the command line as `module:name`."""

import importlib
import os
import sys
from typing import Any


def is_reference(name: str) -> bool:
    """Returns whether a setting names an object as `module:name`."""
    return ":" in name


def load_object(reference: str) -> Any:
    """Imports the object that a reference names.

    Modules in the working directory are found by every command, as with `python -m`.

    Args:
        reference: `module:name`, for example `my_package.networks:small`.

    Returns:
        The object.

    Raises:
        ValueError: The reference is malformed, or the module or the object does not exist.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise ValueError(f"{reference!r} is not of the form module:name")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # console scripts do not search the working directory
    try:
        return getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r} of {reference!r}: {error}") from error
    except AttributeError:
        raise ValueError(f"module {module_name!r} has no {name!r}") from None
