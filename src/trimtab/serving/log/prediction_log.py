"""The prediction log: every answer that was given, with the inputs from which it was made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from trimtab.core.columns.packs import unpack
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.serving.log.logged_late import SOON_US, LoggedLate, check_search, holds_id
from trimtab.serving.log.prediction_ids import id_time_us
from trimtab.serving.log.prediction_record import ERASED, KNOWN, decode, encode, encode_value
from trimtab.store.log_order import in_order, intervals
from trimtab.store.log_places import position_before, positions_before, records_between
from trimtab.store.ports import Log, LogRecord, Packing

_BLOCK = 2_000  # this many records are read together; more would not fit into the processor's caches
_FIRST_READ = 50
_ID = re.compile("p_[0-9a-z]{26}")


class PredictionLog:
    """Predictions in a `Log`, with one prediction in each record.

    The id of a prediction begins with the time at which it was made. Most are appended within a second, and append
    times never decrease. So a prediction can be found by bisection, without an index. `logged_late.py` finds
    predictions that were logged later.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.buffer_payloads: Callable[[Sequence[bytes]], object] = getattr(log, "buffer", log.append)
        self._late = LoggedLate(log)

    def buffer(self, predictions: Iterable[Prediction]) -> None:
        """Log predictions. A `BufferedLog` does not wait for the disk; any other log appends them.

        Raises:
            Unavailable: They can be neither buffered nor appended now.
        """
        self.buffer_payloads([encode(p) for p in predictions])

    def append(self, predictions: Iterable[Prediction], *, at_us: Sequence[int] | None = None) -> range:
        """Append all predictions or none. Return their positions in this process's partition once they are safe.

        `at_us` are their append times, for a replay. By default, they are appended with the present time.
        """
        return self.log.append([encode(p) for p in predictions], at_us=at_us)

    def append_payloads(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append predictions that are encoded already.

        For predictions that another process has made, give append times: each at least the time in the prediction's
        id, so that the prediction can be found.  # D170
        """
        return self.log.append(payloads, at_us=at_us)

    def append_packs(self, packs: Sequence[bytes], *, at_us: int | None = None) -> range:
        """Append the predictions in packs (see `pack_all`), all or none, with one append time."""
        if isinstance(self.log, Packing):
            return self.log.append_packs(packs, at_us=at_us)
        payloads = [payload for pack in packs for payload in unpack(pack)]
        return self.log.append(payloads, at_us=None if at_us is None else [at_us] * len(payloads))

    def blocks(
        self, after: Mapping[str, int] | None = None, *, model: str | None = None, batch: int | None = None
    ) -> Iterator[tuple[list[Prediction], dict[str, int]]]:
        """Yield the predictions after some positions in blocks, each with the positions at its end.

        Predictions come in the order of their append times. A block may be empty. Predictions appended after this call
        began are not included.

        Args:
            after: By partition: the position after which to begin. By default, this is the beginning of the log.
            model: If given, only the predictions of this model are returned.
            batch: How many records are read together; default: 2,000.

        Raises:
            Corrupt: The log ends before these positions.
        """
        reached, ends = dict(after or {}), self.log.positions()
        for name, position in reached.items():
            if position > ends.get(name, 0):
                raise Corrupt(
                    f"prediction log: partition {name} ends at {ends.get(name, 0)}, and was read up to {position}: its "
                    "file was lost, or replaced by an older copy. Put the newer file back, or run: "
                    "trimtab storage recover"
                )
        for parts in intervals(self.log, reached, ends, batch=batch or _BLOCK, gaps=True):
            reached = {**reached, **{records[-1].partition: records[-1].position for records in parts}}
            yield _decoded(in_order(parts), model), reached
        removed = {name: last for name, last in ends.items() if last > reached.get(name, 0)}
        if removed:
            yield [], {**reached, **removed}

    def read(self, after: Mapping[str, int] | None = None) -> tuple[list[Prediction], dict[str, int]]:
        """Return the first block after some positions that has predictions, and the positions at its end.

        At the end of the log, the block is empty.
        """
        reached = dict(after or {})
        for block, reached in self.blocks(after):
            if block:
                return block, reached
        return [], reached

    def scan(self, after: Mapping[str, int] | None = None) -> Iterator[list[Prediction]]:
        """Yield the predictions after some positions in blocks, as `blocks` does."""
        for predictions, _ in self.blocks(after):
            yield predictions

    def find(self, prediction_id: str, deadline_s: float | None = None) -> Prediction:
        """Return the prediction with an id. The search ends at `deadline_s` (a time of `perf_counter`).

        Raises:
            NotFound: The log does not contain the prediction, or it was erased. The message says which.
            Late: The deadline has passed. Another search continues where this one stopped.
        """
        record = self.look_up(prediction_id, deadline_s)
        if record is None:
            what = "Ids look like p_01kne71xcn000001ttevzs38xs. " * (not _ID.fullmatch(prediction_id))
            raise NotFound(f"prediction {prediction_id!r} is not in the log. {what}Give the id of an answer.")
        if record.payload.startswith(ERASED):
            raise NotFound(
                f"prediction {prediction_id!r} was erased together with other data of a person. `trimtab ledger list` "
                "says when and why."
            )
        return decode(record.payload, record.partition, record.position)

    def get(self, prediction_id: str) -> Prediction | None:
        """Return the prediction with an id, or None if it is not in the log or was erased."""
        record = self.look_up(prediction_id)
        if record is None or record.payload.startswith(ERASED):
            return None
        return decode(record.payload, record.partition, record.position)

    def locate(self, prediction_id: str) -> tuple[str, int] | None:
        """Return the partition and position of the prediction with an id, or None if it is not in the log."""
        record = self.look_up(prediction_id)
        return None if record is None else (record.partition, record.position)

    def look_up(self, prediction_id: str, deadline_s: float | None = None) -> LogRecord | None:
        """Return the record of the prediction with an id, even if it was erased, or None if it is not in the log.

        Most records were appended within a second after the time in the id, so this part of each partition is searched
        first. A late record can be anywhere after it.  # D123

        Raises:
            Late: The deadline (a time of `perf_counter`) has passed.
        """
        try:
            made_at_us = id_time_us(prediction_id)
        except Misuse:
            return None
        needle = encode_value(prediction_id)
        behind: list[tuple[str, int, int]] = []  # where to search if the record was logged late
        for partition, last in self.log.positions().items():
            after = position_before(self.log, partition, last, made_at_us)
            record, reached = self._look_near(partition, after, made_at_us, needle, deadline_s)
            if record is not None:
                return record
            behind.append((partition, reached, last))
        for place in behind:
            record = self._late.find(prediction_id, needle, place, deadline_s)
            if record is not None:
                return record
        return None

    def _look_near(
        self, partition: str, after: int, made_at_us: int, needle: bytes, deadline_s: float | None
    ) -> tuple[LogRecord | None, int]:
        """Search for a record that was appended within `SOON_US` after it was made.

        Return the record or None, and the position up to which the partition was searched.
        """
        limit = _FIRST_READ
        while True:
            check_search(deadline_s)
            records = self.log.read(partition, after, limit=limit)
            for record in records:
                if record.appended_at_us > made_at_us + SOON_US:
                    return None, record.position - 1
                if holds_id(record.payload, needle):
                    return record, record.position
            if not records:
                return None, after
            after = records[-1].position
            limit = min(4 * limit, _BLOCK)

    def read_range(self, partition: str, first: int, rows: int) -> list[Prediction]:
        """Return the predictions at `rows` consecutive positions of a partition, without those that were erased."""
        found: list[Prediction] = []
        seen = 0
        while seen < rows:
            records = self.log.read(partition, first - 1 + seen, limit=min(_BLOCK, rows - seen))
            if not records or records[0].position != first + seen:
                raise NotFound(
                    f"prediction log, {partition}: no record at position {first + seen}. Was the log truncated?"
                )
            seen += len(records)
            found += _decoded(records, None)
        return found

    def between(
        self, partition: str, after: int, through: int, *, model: str | None = None
    ) -> Iterator[list[Prediction]]:
        """Yield the predictions after one position of a partition and up to another, in blocks.

        Records that were removed from the log are skipped.
        """
        for records in records_between(self.log, partition, after, through, batch=_BLOCK):
            yield _decoded(records, model)

    def find_all(
        self, wanted: Callable[[Prediction], bool], *, may_be_in: Callable[[bytes], bool] = lambda payload: True
    ) -> dict[str, dict[int, bytes]]:
        """Find all predictions for which `wanted` is true, and return the replacements that erase them.

        The result is by partition and position, as `Log.erase` needs it. `may_be_in` is a fast test of a payload before
        it is decoded: False means that the payload cannot hold a wanted prediction.
        """
        found: dict[str, dict[int, bytes]] = {}
        for partition, last in self.log.positions().items():
            for record in chain.from_iterable(records_between(self.log, partition, 0, last, batch=_BLOCK)):
                if record.payload.startswith(ERASED) or not may_be_in(record.payload):
                    continue
                prediction = decode(record.payload, partition, record.position)
                if wanted(prediction):
                    found.setdefault(partition, {})[record.position] = ERASED + encode_value(prediction.id)
        return found

    def positions_before(self, at_us: int) -> dict[str, int]:
        """Return a position for each partition: all predictions made at `at_us` or later come after this position."""
        return positions_before(self.log, at_us)

    def close(self) -> None:
        self.log.close()


def _decoded(records: Iterable[LogRecord], model: str | None) -> list[Prediction]:
    """Return the predictions in these records, of one model or of all, without those that were erased."""
    # a fast test before decoding: a payload of a known format that lacks the bytes of `model` is of another model
    named = b"" if model is None else encode_value(model)
    block = [
        decode(one.payload, one.partition, one.position)
        for one in records
        if not one.payload.startswith(ERASED) and (named in one.payload or not one.payload.startswith(KNOWN))
    ]
    return block if model is None else [prediction for prediction in block if prediction.model == model]
