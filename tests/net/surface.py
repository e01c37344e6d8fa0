"""The Python surface: every public name, the values that its callables give, and their fields and signatures."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import ArrayLike

import trimtab as tt
from trimtab.core.columns import Columns
from trimtab.core.config import Config

_PREFIX = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")  # `dt.datetime`: where a type lives may change
_OWN = "trimtab."
BEYOND = {  # what the documents import from elsewhere than `trimtab`
    "trimtab.core.clock": ("ShiftedClock", "SystemClock", "VirtualClock"),
    "trimtab.core.columns": ("Column", "Columns", "WrongColumn"),
    "trimtab.core.time": ("DAY_US", "HOUR_US", "duration_us", "format_duration", "parse_time_us"),
    "trimtab.events": ("History", "Ingestor", "Quarantine", "read_rows"),
    "trimtab.features": ("LABEL_STATES", "LabelIndex", "REASONS", "evaluate"),
    "trimtab.run": ("Cancelled", "Codec", "Recorded"),
    "trimtab.serving": ("InvalidField", "Late", "ModelFailed", "NotApplied", "Refused"),
    "trimtab.simulation": ("Policy", "Refit", "Standing", "fault", "read_faults", "scorecards", "shift"),
    "trimtab.stats": (
        *("cheapest_class", "choose_threshold", "class_metrics", "expected_calibration_error", "fit_recalibration"),
        "ranking_metrics",
    ),
    "trimtab.steering": ("Window", "judge"),
    "trimtab.testing": ("MemoryLog",),
    "trimtab.training": ("build_training_set", "evaluate", "fit", "neural", "onnx"),
}
_WITH_VALUES = ("trimtab.core.columns", "trimtab.serving", "trimtab.simulation")
_USUAL = {"__init__", "__repr__", "__str__", "__hash__", "__post_init__", "__getstate__", "__setstate__", "__reduce__"}


class _Text(str):
    """An annotation that `inspect` shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def lines() -> list[str]:
    """The surface, one line for each name."""
    out = [f"trimtab.{name}" + _said(getattr(tt, name)) for name in sorted(tt.__all__)]
    out += [f"{home}.{name}" + _said(getattr(import_module(home), name)) for home in BEYOND for name in BEYOND[home]]
    return out + [line for of_one in sorted(map(_of_class, reached())) for line in of_one]


def reached() -> list[type]:
    """The classes of values that users hold.

    These are `Project`, the settings, what the functions of `trimtab` give, and each Struct and table that can be
    reached from there by fields, methods and properties. The parts that a project holds open (`project.registry`) are
    named as its properties; their own methods are no promise.
    """
    found: dict[type, None] = {}
    waiting: list[type] = [tt.Project, Config]
    things = [getattr(tt, name) for name in tt.__all__]
    things += [getattr(import_module(home), name) for home in _WITH_VALUES for name in BEYOND[home]]
    for thing in things:
        if inspect.isclass(thing):
            waiting.append(thing)
        elif inspect.isfunction(thing):
            given = inspect.signature(thing).return_annotation
            waiting += _classes_in(_evaluated(given, _names_of(thing.__module__), thing))
    direct = set(waiting)
    while waiting:
        kind = waiting.pop()
        values = kind in direct or issubclass(kind, msgspec.Struct | Columns)
        if kind not in found and kind.__module__.startswith(_OWN) and values:
            found[kind] = None
            waiting += [one for hint in _hints_of(kind) for one in _classes_in(hint)]
    return list(found)


def _hints_of(kind: type) -> Iterator[Any]:
    if issubclass(kind, msgspec.Struct):
        for annotation in _annotations(kind).values():
            yield _resolved(kind, annotation)
    for _, member in _members(kind):
        function = _function_of(member)
        if function is not None:
            yield _resolved(kind, inspect.signature(function).return_annotation)


def _of_class(kind: type) -> list[str]:
    name = kind.__name__
    bases = ", ".join(base.__name__ for base in kind.__bases__) if issubclass(kind, BaseException) else ""
    out = [f"class {name}({bases})"]
    if issubclass(kind, msgspec.Struct):
        annotations, defaults = _annotations(kind), kind.__struct_defaults__
        given = [msgspec.NODEFAULT] * (len(kind.__struct_fields__) - len(defaults)) + [*defaults]
        for field, default in zip(kind.__struct_fields__, given, strict=True):
            if not field.startswith("_"):
                out.append(f"{name}.{field}: {_annotation(annotations[field])}{_default(default)}")
    elif not issubclass(kind, BaseException):
        out.append(f"{name}{_signature(kind)}")
    for member_name, member in _members(kind):
        function = _function_of(member)
        if function is None:
            continue
        if isinstance(member, property | functools.cached_property):
            out.append(
                f"{name}.{member_name}: {_annotation(inspect.signature(function).return_annotation)}  [property]"
            )
        else:
            what = {staticmethod: "  [static]", classmethod: "  [class]"}.get(type(member), "")
            out.append(f"{name}.{member_name}{_signature(function)}{what}")
    return out


def _default(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return ""
    factory = getattr(value, "factory", None)  # of a list or dict: made for each value
    if factory is not None:
        return f" = {factory.__name__}()"
    return " = a function" if inspect.isfunction(value) else f" = {value!r}"


def _members(kind: type) -> list[tuple[str, Any]]:
    """The public methods and properties of a class, those of its bases included; of `Project` the documented ones."""
    bases = [base for base in kind.__mro__ if base.__module__.startswith(_OWN)]
    found = {name: inspect.getattr_static(kind, name) for base in bases for name in vars(base)}
    return sorted((name, member) for name, member in found.items() if _is_public(kind, name, member))


def _is_public(kind: type, name: str, member: Any) -> bool:
    if name.startswith("__") and name.endswith("__"):
        return inspect.isfunction(member) and name not in _USUAL
    if kind is tt.Project:
        return name in documented()
    return not name.startswith("_")


@functools.cache
def documented() -> frozenset[str]:
    """The verbs and parts of a project that the reference names."""
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text("utf-8").partition("## Settings")[0]
    parts = text.partition("Parts that a project holds open:")[2].partition("\n")[0]
    verbs = re.findall(r"`project\.(\w+)[(`.]", text)
    return frozenset(verbs) | frozenset(re.findall(r"`(\w+)`", parts))


def _function_of(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member if inspect.isfunction(member) else None


def _said(value: Any) -> str:
    """What follows a public name: a signature, or what the value is."""
    if inspect.isclass(value):
        return f": class {value.__name__}"
    return _signature(value) if callable(value) else f" = {value!r}"


def _signature(function: Any) -> str:
    found = inspect.signature(function)
    parameters = [
        one if one.annotation is one.empty else one.replace(annotation=_Text(_annotation(one.annotation)))
        for one in found.parameters.values()
    ]
    gives = found.return_annotation
    shown = gives if gives is found.empty else _Text(_annotation(gives))
    text = str(found.replace(parameters=parameters, return_annotation=shown))
    assert " at 0x" not in text, f"{function}: a default of {text} has no text of its own"
    return text


def _annotation(annotation: Any) -> str:
    if annotation == ArrayLike:  # a long union of NumPy's own, which differs between Pythons
        return "ArrayLike"
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _PREFIX.sub("", " ".join(text.split()))


def _annotations(kind: type) -> dict[str, Any]:
    return {name: hint for base in reversed(kind.__mro__) for name, hint in inspect.get_annotations(base).items()}


def _resolved(kind: type, annotation: Any) -> Any:
    """An annotation as types, with the names that the modules of a class import for type checkers alone."""
    names: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        names |= _names_of(base.__module__) if base.__module__.startswith(_OWN) else {}
    return _evaluated(annotation, names, kind)


def _evaluated(annotation: Any, names: dict[str, Any], where: Any) -> Any:
    while isinstance(annotation, str):
        try:
            annotation = eval(annotation, names)
        except (NameError, TypeError) as error:
            raise AssertionError(f"{where}: {annotation!r} cannot be resolved: {error}") from error
    return annotation


@functools.cache
def _names_of(module: str) -> dict[str, Any]:
    found = vars(sys.modules[module]).copy()
    source = inspect.getsource(sys.modules[module])
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.ImportFrom):
                    for one in line.names:
                        found[one.asname or one.name] = getattr(import_module(str(line.module)), one.name)
                elif isinstance(line, ast.Import):
                    for one in line.names:
                        found[one.asname or one.name] = import_module(one.name)
    return found


def _classes_in(hint: Any) -> list[Any]:
    """The classes that a type is made of."""
    if inspect.isclass(hint) and not typing.get_args(hint):
        return [hint]
    return [kind for part in typing.get_args(hint) for kind in _classes_in(part)]
