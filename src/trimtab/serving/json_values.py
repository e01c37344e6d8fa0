"""Encode Python and NumPy values as JSON. If JSON would change a value, an error names its place."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.serving.problems import InvalidField

_GIVE = "Give numbers, texts, truth values, None and datetimes."


def encode(body: Any) -> bytes:
    """Return the body of a request as JSON.

    Raises:
        Misuse: JSON cannot express a value. The error is an `InvalidField` that names the place of the value.
    """
    try:
        return msgspec.json.encode(_sendable(body, "$", ""), enc_hook=plain_value)
    except Misuse:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Misuse(f"rows: {error}. {_GIVE}") from error


def _sendable(value: Any, pointer: str, field: str) -> Any:
    """Return a value in a form that the JSON encoder does not change.

    The encoder would silently change some values (infinity to null, bytes to base 64, a UUID to a text). These are
    refused. A decimal, which the encoder would write as a text, becomes a number.
    """
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise Misuse(f"{pointer}: the name {name!r} is a {type(name).__name__}. Give texts as names.")
        return {name: _sendable(one, f"{pointer}.{name}", name) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_sendable(one, f"{pointer}[{place}]", field) for place, one in enumerate(value)]
    try:
        plain = value if isinstance(value, float | dt.date) else plain_value(value)
    except (TypeError, ValueError) as error:
        raise InvalidField(f"{pointer}: {error}. {_GIVE}", field=field, pointer=pointer) from None
    if isinstance(plain, float) and math.isinf(plain):
        raise InvalidField(
            f"{pointer}: found {plain}, which JSON cannot express. Give a finite number, or None.",
            field=field,
            pointer=pointer,
        )
    return plain


def plain_value(value: Any) -> Any:
    """Return the JSON equivalent of a decimal, a NumPy scalar or a pandas timestamp."""
    if isinstance(value, Decimal):
        return None if value.is_nan() else float(value)
    if isinstance(value, dt.datetime):  # pandas' timestamp is a subclass; its NaT is not equal to itself
        return value.isoformat(timespec="microseconds") if value == value else None
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        kind = value.dtype.kind
        plain = value.astype("datetime64[us]").item() if kind == "M" else value.item()
        if kind not in "mSV":
            return plain
    raise TypeError(f"found a {type(value).__name__}, {value!r}")
