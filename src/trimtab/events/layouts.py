"""Layouts: the place of each column in recorded events. A place is never reused for another column. # D34

An event is a row of values without names. A column that is declared later is therefore added behind all existing
columns, and the place of a column that is not declared any more stays empty. Every recorded event can then still be
read correctly.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Corrupt, Misuse
from trimtab.events.definitions import Source

KIND = "layout"  # the kind of layout records in a catalogue, which are named by source


class Layout(msgspec.Struct, frozen=True):
    """Every column that a source has ever had, in the order in which events store them."""

    columns: dict[str, Dtype]
    format: Literal[1] = 1
    # Number of columns before one was added; None: no column was added, or an earlier trimtab added it # D34
    first: int | None = None
    recorded: bool | None = None  # whether an event was ever recorded; None: written by an earlier trimtab # D34


def decode_layout(body: bytes, source: str) -> Layout:
    """Decode a stored layout.

    Raises:
        Corrupt: The bytes are not a layout.
    """
    try:
        return msgspec.json.decode(body, type=Layout)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"source {source!r}: the places of its columns cannot be read ({error}).") from error


def layout_with(layout: Layout | None, source: Source) -> Layout:
    """Return a layout that has places for all columns of a source.

    This is the given layout if it has them already.

    Raises:
        Misuse: A column is declared with another type than that of the recorded events.
    """
    if layout is None:
        return Layout(dict(source.declared), recorded=False)
    wrong = retyped(layout, source)
    for name, (before, now) in wrong.items():
        raise Misuse(
            f"source {source.name!r}: column {name!r} is declared {now}, and recorded events hold it as {before}. "
            f"Declare it {before} and convert it in features, or send the new values as a column of another name."
        )
    if source.declared.keys() <= layout.columns.keys():
        return layout
    first = len(layout.columns) if layout.first is None else layout.first
    return msgspec.structs.replace(layout, columns={**layout.columns, **source.declared}, first=first)


def continues(layout: Layout, before: Layout) -> bool:
    """Return whether events that were written by one layout are read correctly by another layout.

    >>> continues(Layout({"at": "time", "x": "int"}), Layout({"at": "time"}))
    True
    """
    return list(layout.columns.items())[: len(before.columns)] == list(before.columns.items())


def retyped(layout: Layout, source: Source) -> dict[str, tuple[Dtype, Dtype]]:
    """Return the columns whose declared type differs from the recorded type: both types by column."""
    both = layout.columns.keys() & source.declared.keys()
    pairs = {name: (layout.columns[name], source.declared[name]) for name in source.columns if name in both}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def laid_out(source: Source, layout: Layout) -> Source:
    """Return the source with its columns in their places. Columns that are not declared any more are hidden.

    >>> from trimtab.events.definitions import source
    >>> now = source("weather", time="at", columns={"wind": float, "temp": float})
    >>> found = laid_out(now, Layout({"at": "time", "temp": "float", "rain": "float", "wind": "float"}))
    >>> list(found.columns), found.hidden, found.hash == now.hash
    (['at', 'temp', 'rain', 'wind'], ('rain',), True)
    """
    hidden = tuple(name for name in layout.columns if name not in source.declared)
    return msgspec.structs.replace(source, columns=dict(layout.columns), hidden=hidden, first=layout.first)
