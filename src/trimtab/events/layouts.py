"""Layouts: places of columns in recorded events; a place is given once, and never to another column. # D34

An event is a row of values without names. So a column that is declared later lies behind all that there were, and the
place of one that is declared no more stays empty; whatever was recorded is then read as what it was.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Corrupt, Misuse
from trimtab.events.definitions import Source

KIND = "layout"  # kind of the records in a catalogue, by source name


class Layout(msgspec.Struct, frozen=True):
    """Every column that a source ever had, in the order in which its events hold them."""

    columns: dict[str, Dtype]
    format: Literal[1] = 1
    first: int | None = None  # number of columns before one was added; None: none was, or by an earlier trimtab # D34
    recorded: bool | None = None  # whether an event was ever recorded; None: an earlier trimtab wrote this # D34


def decode_layout(body: bytes, source: str) -> Layout:
    """A layout as it was kept.

    Raises:
        Corrupt: It is none.
    """
    try:
        return msgspec.json.decode(body, type=Layout)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"source {source!r}: the places of its columns cannot be read ({error}).") from error


def layout_with(layout: Layout | None, source: Source) -> Layout:
    """The layout that has places for all columns of a source; the same one when it has them already.

    Raises:
        Misuse: A column is declared as another type than the recorded events hold.
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
    """True when events that were written by one layout are read correctly by another one.

    >>> continues(Layout({"at": "time", "x": "int"}), Layout({"at": "time"}))
    True
    """
    return list(layout.columns.items())[: len(before.columns)] == list(before.columns.items())


def retyped(layout: Layout, source: Source) -> dict[str, tuple[Dtype, Dtype]]:
    """The columns that are declared as another type than is recorded: that, and the declared one."""
    both = layout.columns.keys() & source.declared.keys()
    pairs = {name: (layout.columns[name], source.declared[name]) for name in source.columns if name in both}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def laid_out(source: Source, layout: Layout) -> Source:
    """The source with its columns in their places, and previous columns, hidden, in theirs.

    >>> from trimtab.events.definitions import source
    >>> now = source("weather", time="at", columns={"wind": float, "temp": float})
    >>> found = laid_out(now, Layout({"at": "time", "temp": "float", "rain": "float", "wind": "float"}))
    >>> list(found.columns), found.hidden, found.hash == now.hash
    (['at', 'temp', 'rain', 'wind'], ('rain',), True)
    """
    hidden = tuple(name for name in layout.columns if name not in source.declared)
    return msgspec.structs.replace(source, columns=dict(layout.columns), hidden=hidden, first=layout.first)
