"""Registries of named objects, which users extend from their own modules."""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from snn_rl.utils.errors import did_you_mean

_Entry = TypeVar("_Entry")


def is_reference(name: str) -> bool:
    """Returns True if a name refers to an object of a module, as in `module:name`."""
    return ":" in name


class Registry(dict[str, _Entry]):
    """Objects by name, plus those of the user's modules, named as `module:name`.

    Args:
        setting: Setting that takes the names, used in error messages.
        entries: Built-in objects by name, or references to them, which are imported when used.
        others: Further names that the setting takes, used in error messages.
    """

    def __init__(
        self,
        setting: str,
        entries: Mapping[str, Any],
        others: str = "or module:function",
    ):
        super().__init__(entries)
        self.setting = setting
        self.others = others

    def register(self, name: str, entry: _Entry) -> None:
        """Adds an object; raises a ValueError if the name is taken or contains a colon."""
        if is_reference(name) or self.get(name, entry) != entry:
            raise ValueError(f"{self.setting}={name}: the name is taken or contains a colon")
        self[name] = entry

    def check(self, name: str) -> None:
        """Raises a ValueError if a name is neither registered nor of the form `module:name`."""
        if name not in self and not is_reference(name):
            raise ValueError(
                f"{self.setting}={name}: must be one of {', '.join(self)}, {self.others}"
                f"{did_you_mean(name, self)}"
            )

    def find(self, name: str) -> _Entry:
        """Returns a registered object or imports `module:name`; raises a ValueError otherwise."""
        self.check(name)
        try:
            entry: Any = self.get(name) or name
            found: _Entry = load_object(entry) if isinstance(entry, str) else entry
            return found
        except ValueError as error:
            raise ValueError(f"{self.setting}={name}: {error}") from error


def load_object(reference: str) -> Any:
    """Imports the object that `module:name` refers to, also from the working directory.

    Raises:
        ValueError: The module or the object does not exist.
    """
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # console scripts do not search the working directory
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot be imported ({error})") from error
