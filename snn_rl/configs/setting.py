"""Settings as dataclass fields that carry their description, choices and range."""

import math
from collections.abc import Collection, Iterator, Mapping
from copy import copy
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import partial
from inspect import getdoc
from typing import Any, TypeVar

from snn_rl.utils.errors import UserError, did_you_mean
from snn_rl.utils.plugins import is_reference

T = TypeVar("T")

CUSTOM = "module:function"  # among the choices: any importable function, written in this form


def setting(
    default: T,
    description: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> T:
    """Declares a dataclass field that is a setting.

    Args:
        default: Value without presets.
        description: Meaning and unit, in one or two sentences.
        choices: Allowed values, all of them if empty.
        minimum: Smallest allowed value.
        maximum: Largest allowed value.
        above: Lower bound that is not allowed itself.
        below: Upper bound that is not allowed itself.
    """
    metadata = {
        "description": description,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
    }
    if isinstance(default, list):
        return field(default_factory=partial(copy, default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One setting of a schema.

    Attributes:
        name: Full name, for example "iir.lr".
        type: Type as it is written in Python.
        default: See `setting`, like the remaining attributes.
    """

    name: str
    type: str
    default: Any
    description: str
    choices: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    above: float | None
    below: float | None

    @property
    def allowed(self) -> str:
        """Allowed values in words, for example "1 or more"; empty without choices and range."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"between {low} and {high}"
        if low is not None and self.below is None:
            return f"{low} or more"
        bounds = {"at least": low, "above": self.above, "at most": high, "below": self.below}
        return " and ".join(f"{word} {n}" for word, n in bounds.items() if n is not None)

    def check(self, value: Any, registered: Collection[str] = ()) -> None:
        """Checks a value against the choices and the range.

        Args:
            value: Value of the setting's type; None is always allowed.
            registered: Choices besides those of the schema.

        Raises:
            UserError: The value is not allowed.
        """
        if value is None or not self.allowed:
            return
        if self.choices:
            known = [*self.choices, *registered]
            valid = value in known or (CUSTOM in known and is_reference(value))
            hint = did_you_mean(str(value), known)
        else:
            valid = -math.inf < value < math.inf and not (
                (self.minimum is not None and value < self.minimum)
                or (self.maximum is not None and value > self.maximum)
                or (self.above is not None and value <= self.above)
                or (self.below is not None and value >= self.below)
            )
            hint = ""
        if not valid:
            raise UserError(f"{self.name}={value}: must be {self.allowed}{hint}")


@dataclass(frozen=True)
class Section:
    """Settings with a common prefix.

    Attributes:
        name: The prefix; empty for the top level.
        description: What the settings have in common.
        settings: The settings, in order.
    """

    name: str
    description: str
    settings: list[Setting]


def sections(schema: type[Any], prefix: str = "") -> Iterator[Section]:
    """Yields the sections of a schema, the top level first."""
    nested: list[tuple[str, type[Any]]] = []
    settings = []
    for entry in fields(schema):
        name = f"{prefix}{entry.name}"
        if isinstance(entry.type, type) and is_dataclass(entry.type):
            nested.append((name, entry.type))
        else:
            settings.append(_described(name, entry))
    yield Section(prefix.rstrip("."), getdoc(schema) or "", settings)
    for name, section in nested:
        yield from sections(section, f"{name}.")


def _described(name: str, entry: Field[Any]) -> Setting:
    kind = entry.type.__name__ if type(entry.type) is type else str(entry.type)
    factory = entry.default_factory
    default = entry.default if factory is MISSING else factory()
    return Setting(name, kind, default, **entry.metadata)


def settings_of(schema: type[Any]) -> dict[str, Setting]:
    """Returns all settings of a schema by their full names."""
    return {each.name: each for section in sections(schema) for each in section.settings}


def value_of(config: Any, name: str) -> Any:
    """Returns a setting's value by its full name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def belongs(name: str, names: Collection[str]) -> bool:
    """Returns whether a setting or its section is among the names."""
    return name in names or name.split(".")[0] in names


def check_settings(config: Any, registered: Mapping[str, Collection[str]] | None = None) -> None:
    """Checks every setting against the choices and the range of the schema.

    Args:
        config: Instance of a schema.
        registered: Choices of settings besides those of the schema.

    Raises:
        UserError: A value is not allowed.
    """
    for name, each in settings_of(type(config)).items():
        each.check(value_of(config, name), (registered or {}).get(name, ()))
