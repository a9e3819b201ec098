"""Settings as dataclass fields that carry their description, choices and range, and their help."""

import math
import operator
from collections.abc import Collection, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from inspect import getdoc
from textwrap import wrap
from typing import Any, TypeVar

from snn_rl.utils.errors import UserError, did_you_mean
from snn_rl.utils.plugins import is_reference, load_object

T = TypeVar("T")

_WIDTH, _COLUMN = 80, 28  # characters of the help

CUSTOM = "module:function"  # among the choices: any importable function, written in this form


LARGEST = 2**31 - 1  # bound of all integers, which keeps sizes in memory from overflowing

# Comparison and text of each bound of a number
_COMPARE = {
    "minimum": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "maximum": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}


def setting(default: T, description: str, *, choices: tuple[str, ...] = (), **bounds: float) -> T:
    """Declares a dataclass field that is a setting, with its description, choices and bounds.

    Without choices, all values are allowed. A choice such as "snn_rl.formats:FORMATS" refers to a
    registry in a higher layer, whose names are allowed.
    """
    metadata = {"description": description, "declared": choices, "bounds": bounds}
    if isinstance(default, list):
        return field(default_factory=partial(copy, default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One setting of a schema, with its full name ("iir.lr") and its type."""

    name: str
    type: Any
    default: Any
    description: str
    declared: tuple[str, ...]
    bounds: Mapping[str, float]

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values, with the names in the registries."""
        found: list[str] = []
        for each in self.declared:
            registry = is_reference(each) and each != CUSTOM
            found += load_object(each) if registry else [each]
        return tuple(found)

    @property
    def allowed(self) -> str:
        """Allowed values in words, for example "1 or more"; empty without choices and bounds."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        match dict(self.bounds):
            case {"minimum": low, "maximum": high}:
                return f"between {low} and {high}"
            case {"minimum": low, **others} if not others:
                return f"{low} or more"
        return " and ".join(f"{_COMPARE[name][1]} {bound}" for name, bound in self.bounds.items())

    def check(self, value: Any) -> None:
        """Checks a value against the choices and the bounds, and integers against `LARGEST`."""
        known = self.choices
        if value is None:
            return
        if known:
            valid = value in known or (CUSTOM in known and is_reference(value))
        else:
            valid = not self.bounds or value < math.inf
            valid &= all(_COMPARE[name][0](value, bound) for name, bound in self.bounds.items())
        if not valid:
            hint = did_you_mean(str(value), known)
            raise UserError(f"{self.name}={value}: must be {self.allowed}{hint}")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"{self.name}={value}: must be at most {LARGEST}")


@dataclass(frozen=True)
class Section:
    """Settings with a common prefix, which is empty for the top level."""

    name: str
    description: str
    settings: list[Setting]


def sections(schema: type[Any], prefix: str = "") -> Iterator[Section]:
    """Yields the sections of a schema, the top level first."""
    nested: dict[str, type[Any]] = {}
    settings, defaults = [], schema()
    for entry in fields(schema):
        name = f"{prefix}{entry.name}"
        if isinstance(entry.type, type) and is_dataclass(entry.type):
            nested[name] = entry.type
        else:
            default = getattr(defaults, entry.name)
            settings.append(Setting(name, entry.type, default, **entry.metadata))
    yield Section(prefix.rstrip("."), getdoc(schema) or "", settings)
    for name, section in nested.items():
        yield from sections(section, f"{name}.")


def settings_of(schema: type[Any]) -> dict[str, Setting]:
    """Returns all settings of a schema by their full names."""
    return {each.name: each for section in sections(schema) for each in section.settings}


def value_of(config: Any, name: str) -> Any:
    """Returns a setting's value by its full name."""
    return operator.attrgetter(name)(config)


def belongs(name: str, names: Collection[str]) -> bool:
    """Returns True if a setting or its section is among the names."""
    return name in names or name.split(".")[0] in names


def check_settings(config: Any) -> None:
    """Checks every setting of a schema's instance, see `Setting.check`."""
    for name, each in settings_of(type(config)).items():
        each.check(value_of(config, name))


def help_text(schema: type[Any], doc: str, names: Collection[str] = ()) -> str:
    """Returns the output of `--help`, at most 80 characters wide.

    Lists all settings, or only those of the named settings and sections.
    """
    lines = [doc.strip(), "", "Settings (key=value, in any order) and their defaults:"]
    for section in sections(schema):
        listed = [each for each in section.settings if not names or belongs(each.name, names)]
        if listed and section.name:
            about = section.description.split("\n\n")[0]
            lines += ["", *wrap(f"{section.name}: {about}", _WIDTH)]
        lines += [line for each in listed for line in _lines(each)]
    return "\n".join(lines)


def _lines(each: Setting) -> list[str]:
    key = f"  {each.name}={on_command_line(each.default)}"
    words = each.description + (f" One of {', '.join(each.choices)}." if each.choices else "")
    about = wrap(words, _WIDTH - _COLUMN, break_on_hyphens=False)
    if len(key) < _COLUMN:
        return [f"{key:{_COLUMN}}{about[0]}", *(" " * _COLUMN + line for line in about[1:])]
    return [key, *(" " * _COLUMN + line for line in about)]


def on_command_line(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "")
