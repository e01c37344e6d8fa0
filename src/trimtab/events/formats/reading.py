"""Rules by which the rows of files and calls become events: formats, words for null, keys made of columns.  # D0208

The rules belong to a source, so that they also apply to later files. They are not part of the source's hash, because
stored events do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.core.time import EARLIEST_US, LATEST_US, format_time
from trimtab.events.formats.number_formats import number_format

DELIMITERS = ",;\t|"


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rules of one source. Each is described as an argument of `source()`."""

    number_formats: dict[str, str] = {}
    nulls: tuple[str, ...] = ()
    delimiter: str | None = None
    key_of: tuple[str, ...] = ()
    constants: dict[str, str] = {}
    known_at: str | None = None
    only_final: bool = False


PLAIN = Reading()


def checked_reading(
    what: str,
    columns: Mapping[str, Dtype],
    key: str | None,
    *,
    number_format: Mapping[str, str] | None,
    nulls: Sequence[str],
    delimiter: str | None,
    key_of: Sequence[str],
    constants: Mapping[str, str] | None,
    known_at: str | None,
    only_final: bool,
) -> Reading:
    """Return the rules of a source with these columns. `what` names the source in errors.

    Raises:
        Misuse: A rule is not written as it must be, or does not apply to the type of a column that it names.
    """
    if isinstance(nulls, str) or not all(isinstance(word, str) for word in nulls):
        raise Misuse(
            f'{what}: nulls={shown(nulls)[:100]} is not a list of texts. Give a list such as ["-", "unknown"].'
        )
    if delimiter is not None and (not isinstance(delimiter, str) or delimiter not in tuple(DELIMITERS)):
        raise Misuse(f"{what}: delimiter={shown(delimiter)[:100]} must be one of {', '.join(map(repr, DELIMITERS))}.")
    if isinstance(key_of, str) or not all(part in columns and part != key for part in key_of):
        others = ", ".join(name for name in columns if name != key)
        raise Misuse(
            f"{what}: key_of={shown(key_of)[:100]} is not a list of columns other than the key; allowed are {others}."
        )
    if key_of and (key is None or columns.get(key) != "str"):
        raise Misuse(f'{what}: key_of needs a key of type str, which is made of those columns. Declare key="row_id".')
    if known_at is not None and columns.get(known_at) != "time":
        times = ", ".join(name for name, dtype in columns.items() if dtype == "time")
        raise Misuse(f"{what}: known_at={shown(known_at)[:100]} is not a time column. Time columns: {times}.")
    return Reading(
        number_formats=_checked_numbers(what, columns, number_format or {}),
        nulls=tuple(dict.fromkeys(null_form(word) for word in nulls)),
        delimiter=delimiter,
        key_of=tuple(key_of),
        constants=_checked_constants(what, columns, key, constants or {}),
        known_at=known_at,
        only_final=bool(only_final),
    )


def _checked_constants(
    what: str, columns: Mapping[str, Dtype], key: str | None, given: Mapping[str, str]
) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise Misuse(f'{what}: constants={shown(given)[:100]} is not a mapping. Write {{"series": "all"}}.')
    for name, value in given.items():
        if columns.get(name) != "str" or name == key or not isinstance(value, str):
            raise Misuse(
                f"{what}: constants has {shown(name)[:100]}: {shown(value)[:100]}. A constant must be a text, for a "
                "column of type str that is not the key."
            )
    return dict(given)


def _checked_numbers(what: str, columns: Mapping[str, Dtype], given: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise Misuse(f'{what}: number_format={shown(given)[:100]} is not a mapping. Write {{"price": "1.234,56 €"}}.')
    for name, text in given.items():
        if columns.get(name) not in ("float", "int"):
            numbers = ", ".join(column for column, dtype in columns.items() if dtype in ("float", "int")) or "none"
            raise Misuse(
                f"{what}: number_format names {shown(name)[:100]}, which is not a column of numbers. Columns of "
                f"numbers: {numbers}."
            )
        try:
            number_format(text)
        except (Misuse, TypeError) as error:
            said = error if isinstance(error, Misuse) else f"{shown(text)[:100]} is not a text."
            raise Misuse(f"{what}: number_format of column {name!r}: {said}") from None
    return dict(given)


def null_form(word: str) -> str:
    """Return a word for null in the form for comparisons: without surrounding spaces, in lower case."""
    return word.strip().lower()


def key_text(parts: Iterable[Any]) -> str | None:
    """Return a key made of values, or None if one of them is null. Different values give different keys.

    >>> key_text(["c1", 7]), key_text(["a|b", "c"]), key_text(["a", None])
    ('c1|7', 'a\\\\|b|c', None)
    """
    texts = []
    for value in parts:
        if value is None:
            return None
        texts.append(str(value).replace("\\", "\\\\").replace("|", "\\|"))
    return "|".join(texts)


def made_keys(columns: Mapping[str, Sequence[Any]], dtypes: Mapping[str, Dtype], of: Sequence[str]) -> list[str | None]:
    """Return the key of each row, made of its values in the columns `of`, with times as ISO 8601 in UTC."""
    parts = [list(map(_TEXTS.get(dtypes[name], _same), columns[name])) for name in of]
    return [key_text(values) for values in zip(*parts, strict=True)]


def _same(value: Any) -> Any:
    return value


def _time_text(us: int | None) -> str | None:
    if us is None:
        return None
    return format_time(us) if EARLIEST_US <= us <= LATEST_US else str(us)


_TEXTS: Mapping[Dtype, Callable[[Any], Any]] = {"time": _time_text}
