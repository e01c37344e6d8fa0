"""Layouts: the position of each column in stored events. No position is ever used for another column. # D34

A stored event is a list of values without names. So a new column is always added at the end, and new events have null
at the position of a column that is no longer declared. Thus all stored events can still be read.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Corrupt, Misuse
from trimtab.events.definitions import Source

KIND = "layout"  # the kind of catalogue record that holds a layout; its key is the source's name


class Layout(msgspec.Struct, frozen=True):
    """All columns that a source has ever had, in the order in which events store them."""

    columns: dict[str, Dtype]
    format: Literal[1] = 1
    first: int | None = None  # how many columns the source began with; None: no column was added since # D34
    recorded: bool = False  # whether an event was ever recorded # D34


def decode_layout(body: bytes, source: str) -> Layout:
    """Decode the stored bytes of a layout.

    Raises:
        Corrupt: The bytes are not a layout.
    """
    try:
        return msgspec.json.decode(body, type=Layout)
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"source {source!r}: the stored positions of its columns cannot be read ({error}). Restore the catalogue "
            "from a backup."
        ) from error


def layout_with(layout: Layout | None, source: Source) -> Layout:
    """Return a layout with all columns of a source: the given layout, with new columns added at the end.

    Raises:
        Misuse: A column is declared with another type than stored events have.
    """
    if layout is None:
        return Layout(dict(source.declared))
    wrong = retyped(layout, source)
    for name, (before, now) in wrong.items():
        raise Misuse(
            f"source {source.name!r}: column {name!r} is declared {now}, but recorded events hold it as {before}. "
            f"Declare it {before} and convert it in features, or send the new values as a column of another name."
        )
    if source.declared.keys() <= layout.columns.keys():
        return layout
    first = len(layout.columns) if layout.first is None else layout.first
    return msgspec.structs.replace(layout, columns={**layout.columns, **source.declared}, first=first)


def continues(layout: Layout, before: Layout) -> bool:
    """Return whether events written with the layout `before` can be read with `layout`.

    >>> continues(Layout({"at": "time", "x": "int"}), Layout({"at": "time"}))
    True
    """
    return list(layout.columns.items())[: len(before.columns)] == list(before.columns.items())


def retyped(layout: Layout, source: Source) -> dict[str, tuple[Dtype, Dtype]]:
    """Return the columns whose declared type is not the stored type, each with its stored and its declared type."""
    both = layout.columns.keys() & source.declared.keys()
    pairs = {name: (layout.columns[name], source.declared[name]) for name in source.columns if name in both}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def laid_out(source: Source, layout: Layout) -> Source:
    """Return the source with its columns in the order of the layout. Columns that are no longer declared are hidden.

    >>> from trimtab.events.definitions import source
    >>> now = source("weather", time="at", columns={"wind": float, "temp": float})
    >>> found = laid_out(now, Layout({"at": "time", "temp": "float", "rain": "float", "wind": "float"}))
    >>> list(found.columns), found.hidden, found.hash == now.hash
    (['at', 'temp', 'rain', 'wind'], ('rain',), True)
    """
    hidden = tuple(name for name in layout.columns if name not in source.declared)
    return msgspec.structs.replace(source, columns=dict(layout.columns), hidden=hidden, first=layout.first)
