"""Labels found in events on disk, one part of the keys at a time.

For a history that does not fit in memory, this replaces `LabelIndex`. The labels have the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.events.columns.frames import NEVER_US
from trimtab.features.definitions import Label
from trimtab.features.labels import LabelIndex, LabelRequests
from trimtab.features.parts.chosen_events import with_all_versions, with_hashes
from trimtab.features.parts.event_files import EventFiles, connected, literal, parquet
from trimtab.features.parts.event_parts import TOGETHER, Split, frame_of_part, settle, split

Array = NDArray[Any]

# To choose the number of parts, each event and each request counts as this many bytes. An event in a `LabelIndex` only
# takes about 600 bytes, but parts differ in size.
_PER_ROW_BYTES = 4_096


class PartedLabels:
    """The labels of requests, found in any number of events on disk within a memory limit.

    The requests are written to disk. Requests and the events of their keys are split by the hash of the key. Labels are
    found part by part, written to disk in the order of the requests, and read by `take`.

    Args:
        events: All records of the label's source.
        requests: The requests, in pieces that fit into memory.
        folder: An empty folder for files, which is needed until `close`.
        memory_bytes: About how much memory may be used. DuckDB uses half of it.
    """

    def __init__(
        self, label: Label, events: EventFiles, requests: Iterable[LabelRequests], folder: Path, memory_bytes: int
    ) -> None:
        self._label = label
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._connection = connected(folder / "overflow", memory_bytes // 2)
        self._taken = 0
        try:
            self._labelled = self._find(events, self._write_requests(requests))
        except BaseException:
            self.close()
            raise

    def take(self, rows: int) -> tuple[Array, Array]:
        """Return values and known-at times of the labels of the next requests, as `LabelIndex.join` gives them."""
        begin, self._taken = self._taken, self._taken + rows
        values, known_at_us = np.full(rows, np.nan), np.full(rows, NEVER_US)
        if self._labelled is not None:
            found = self._connection.execute(
                f"SELECT n, label, known_at FROM {parquet([self._labelled])} WHERE n >= {begin} AND n < {self._taken}"
            ).fetchnumpy()
            places = np.ma.getdata(found["n"]) - begin
            values[places], known_at_us[places] = np.ma.getdata(found["label"]), np.ma.getdata(found["known_at"])
        return values, known_at_us

    def close(self) -> None:
        self._connection.close()

    def _write_requests(self, requests: Iterable[LabelRequests]) -> int:
        """Write the requests that have a key, each with its index, and return the number of all requests."""
        rows = 0
        for keys, at_us, cut_us in requests:
            there = np.flatnonzero(keys.present())
            kind = "VARCHAR" if keys.dtype == "str" else "BIGINT"
            columns = {"k": keys.values[there], "n": there + rows, "at_us": at_us[there], "cut_us": cut_us[there]}
            rows += len(at_us)
            if len(there):
                self._connection.register("piece", columns)
                self._connection.execute(
                    f"COPY (SELECT k::{kind} AS k, hash(k::{kind}) AS h, n, at_us, cut_us FROM piece) "
                    f"TO {literal(self._folder / f'requests-{rows:015}.parquet')} (FORMAT parquet)"
                )
                self._connection.unregister("piece")
        return rows

    def _find(self, events: EventFiles, rows: int) -> Path | None:
        """Find the labels. Return a file with them, in the order of the requests; None if there is no label."""
        requests = sorted(self._folder.glob("requests-*.parquet"))
        if not requests:
            return None
        mine = self._candidates(events, requests)
        parts = max(1, math.ceil((mine.count(self._connection) + rows) * _PER_ROW_BYTES / self._memory_bytes))
        together = min(TOGETHER, self._memory_bytes // _PER_ROW_BYTES)
        settled = settle(mine, self._folder / "versions", self._connection, parts, together)
        names = sorted(self._label.value.columns())
        divided = split(settled, mine, (self._label.key,), names, parts, self._folder / "events", self._connection)
        by_part = self._folder / "requests"
        self._connection.execute(
            f"COPY (SELECT k, n, at_us, cut_us, h % {parts} AS part FROM {parquet(requests)}) TO {literal(by_part)} "
            "(FORMAT parquet, PARTITION_BY (part))"
        )
        found = [self._find_part(divided, part, by_part) for part in range(parts)]
        files = [file for file in found if file is not None]
        if not files:
            return None
        ordered = self._folder / "labels.parquet"
        self._connection.execute(
            f"COPY (SELECT * FROM {parquet(files)} ORDER BY n) TO {literal(ordered)} (FORMAT parquet)"
        )
        return ordered

    def _candidates(self, events: EventFiles, requests: list[Path]) -> EventFiles:
        """Return all records of the ids with an event that may be the label of a request."""
        key = f"c{list(events.source.columns).index(self._label.key)}"
        times = self._connection.execute(f"SELECT min(at_us), max(cut_us) FROM {parquet(requests)}").fetchone()
        assert times is not None  # an aggregate without groups has one row
        dated = f"event_at >= {times[0]}"
        if self._label.dated_by_request:
            dated = f"({dated} OR known_at > {times[0]})"
        keyed = (
            f"SELECT h AS id, hash({key}) AS h FROM ({events.select}) "
            f"WHERE {dated} AND known_at <= {times[1]} AND NOT deleted"
        )
        limit_bytes = self._memory_bytes // 2
        ids = with_hashes(keyed, requests, self._folder / "keyed", self._connection, limit_bytes)
        chosen = [self._folder / "ids.parquet"]
        self._connection.execute(f"COPY (SELECT id AS h FROM {parquet(ids)}) TO {literal(chosen[0])} (FORMAT parquet)")
        return with_all_versions(events, chosen, self._folder, self._connection, limit_bytes)

    def _find_part(self, divided: Split, part: int, by_part: Path) -> Path | None:
        """Find the labels of one part of the keys. Return a file with them; None if there is no label."""
        requests, connection = sorted(by_part.glob(f"part={part}/*.parquet")), self._connection
        frame = frame_of_part(divided, part, connection)
        if not requests or not frame.rows:
            return None
        rows = connection.execute(f"SELECT k, n, at_us, cut_us FROM {parquet(requests)}").fetchnumpy()
        keys, numbers, at_us, cut_us = (np.ma.getdata(rows[name]) for name in ("k", "n", "at_us", "cut_us"))
        index = LabelIndex(self._label)
        index.update(frame)
        found = index.join(keys, at_us, cut_us)
        there = found.known_at_us != NEVER_US
        if not there.any():
            return None
        file = self._folder / f"labels-{part:05}.parquet"
        columns = {"n": numbers[there], "label": found.values[there], "known_at": found.known_at_us[there]}
        connection.register("labels", columns)
        connection.execute(f"COPY (SELECT * FROM labels) TO {literal(file)} (FORMAT parquet)")
        connection.unregister("labels")
        return file
