"""The prediction log: every answer given, with what it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.serving.log.logged_late import SOON_US, LoggedLate, check_search, holds_id
from trimtab.serving.log.prediction_ids import id_time_us
from trimtab.store.log_order import in_order, stretches
from trimtab.store.log_places import position_before, positions_before
from trimtab.store.ports import Log, LogRecord

if TYPE_CHECKING:  # NumPy is loaded on first use, so that `import trimtab` stays light
    from numpy.typing import NDArray

FORMAT = b"\x01"  # the first byte of a payload; the rest is a msgpack array of the fields in order, without scores
CLASSES = b"\x02"  # the first byte of one of several classes: the same array, with its scores. # D76
ERASED = b"\x00"  # the first byte of one that was erased; the rest is its identifier. # D26
_FEW = 0x90  # msgpack's first byte of an array of up to fifteen, or-ed with how many they are
_BLOCK = 2_000  # of more, what is read pushes itself out of the processor's caches
_FIRST_LOOK = 50


class PredictionLog:
    """Predictions in a `Log`, one a record.

    Identifiers begin with the time they were made (`core.ids`) and append times never decrease, so a prediction is
    found by bisection and needs no index beside the log; `logged_late.py` finds those that were logged long after.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.note_payloads: Callable[[Sequence[bytes]], object] = getattr(log, "note", log.append)  # of a `BufferedLog`
        self._late = LoggedLate(log)

    def note(self, predictions: Iterable[Prediction]) -> None:
        """Log predictions without a wait, where the log is one that notes; else append them.

        Raises:
            Unavailable: They can be neither noted nor appended now.
        """
        self.note_payloads([encode(p) for p in predictions])

    def append(self, predictions: Iterable[Prediction], *, at_us: Sequence[int] | None = None) -> range:
        """Append all predictions or none; their positions in this process's partition, once they are safe.

        `at_us` are their append times (a replay); left out, the clock's.
        """
        return self.log.append([encode(p) for p in predictions], at_us=at_us)

    def append_payloads(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append predictions that are encoded already.

        Those of another process's identifiers are given append times of which none is before its identifier. # D119
        """
        return self.log.append(payloads, at_us=at_us)

    def blocks(
        self, after: Mapping[str, int] | None = None, *, model: str | None = None
    ) -> Iterator[tuple[list[Prediction], dict[str, int]]]:
        """The predictions behind `after` by append time, in blocks with the positions reached; a block may be empty.

        They are those that are there when it begins: a log may be written to all the time. Raises Corrupt where the
        log does not hold any more what was read.

        Args:
            after: Positions, by partition; left out, from the beginning.
            model: Whose predictions, where only those of one model are wanted.
        """
        reached, ends = dict(after or {}), self.log.positions()
        for name, position in reached.items():
            if position > ends.get(name, 0):
                raise Corrupt(
                    f"prediction log: partition {name} ends at {ends.get(name, 0)}, and was read up to {position}: its "
                    "file was lost, or replaced by an older copy. Put the newer file back, or run: trimtab recover"
                )
        for parts in stretches(self.log, reached, ends, batch=_BLOCK, gaps=True):
            reached = {**reached, **{records[-1].partition: records[-1].position for records in parts}}
            yield _decoded(in_order(parts), model), reached
        removed = {name: last for name, last in ends.items() if last > reached.get(name, 0)}
        if removed:
            yield [], {**reached, **removed}

    def read(self, after: Mapping[str, int] | None = None) -> tuple[list[Prediction], dict[str, int]]:
        """The first block behind `after` that holds predictions, and the positions reached; empty where nothing is."""
        reached = dict(after or {})
        for block, reached in self.blocks(after):
            if block:
                return block, reached
        return [], reached

    def scan(self, after: Mapping[str, int] | None = None) -> Iterator[list[Prediction]]:
        """The predictions behind `after` in blocks, as `blocks` has them."""
        for predictions, _ in self.blocks(after):
            yield predictions

    def find(self, prediction_id: str, deadline_s: float | None = None) -> Prediction:
        """The prediction with this identifier; looked for until `deadline_s` (`perf_counter`), if that is given.

        Raises:
            NotFound: The log holds none, or it was erased; the message says which.
            Late: The time is over. Ask again: the search goes on where it stopped.
        """
        record = self.look_up(prediction_id, deadline_s)
        if record is None:
            raise NotFound(f"prediction {prediction_id!r} is not in the log. Give an id as it stood in an answer.")
        if record.payload.startswith(ERASED):
            raise NotFound(
                f"prediction {prediction_id!r} was erased: somebody it was about was forgotten. `trimtab ledger` says "
                "when and why."
            )
        return decode(record.payload, record.partition, record.position)

    def get(self, prediction_id: str) -> Prediction | None:
        """The prediction with this identifier, None when the log holds none, or none any more."""
        record = self.look_up(prediction_id)
        if record is None or record.payload.startswith(ERASED):
            return None
        return decode(record.payload, record.partition, record.position)

    def locate(self, prediction_id: str) -> tuple[str, int] | None:
        """The partition and position of a prediction, None when the log holds none of this identifier."""
        record = self.look_up(prediction_id)
        return None if record is None else (record.partition, record.position)

    def look_up(self, prediction_id: str, deadline_s: float | None = None) -> LogRecord | None:
        """The record of a prediction, also of one that was erased; None when the log holds none of this identifier.

        It nearly always lies where its time says. What was logged long after that may lie anywhere behind.  # D123

        Raises:
            Late: It was not found until `deadline_s` (`perf_counter`).
        """
        try:
            made_at_us = id_time_us(prediction_id)
        except Misuse:
            return None
        needle = _encoder.encode(prediction_id)
        behind: list[tuple[str, int, int]] = []  # where it may lie if it was logged late
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
        """The record, if it is among those that were appended soon after a moment; and the position reached."""
        limit = _FIRST_LOOK  # it is nearly always near
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
        """`rows` predictions of one partition that stand together, from position `first` on, but those erased."""
        found: list[Prediction] = []
        seen = 0
        while seen < rows:
            records = self.log.read(partition, first - 1 + seen, limit=min(_BLOCK, rows - seen))
            if not records or records[0].position != first + seen:
                raise NotFound(f"prediction log, {partition}: nothing at {first + seen}; has it been truncated?")
            seen += len(records)
            there = [record for record in records if not record.payload.startswith(ERASED)]
            found += [decode(record.payload, partition, record.position) for record in there]
        return found

    def between(
        self, partition: str, after: int, through: int, *, model: str | None = None
    ) -> Iterator[list[Prediction]]:
        """The predictions of a partition behind `after` up to `through`, in blocks, as far as they are still there."""
        while after < through and (records := self.log.read(partition, after, limit=_BLOCK)):
            after = records[-1].position
            yield _decoded((one for one in records if one.position <= through), model)

    def find_all(
        self, wanted: Callable[[Prediction], bool], *, may_be_in: Callable[[bytes], bool] = lambda payload: True
    ) -> dict[str, dict[int, bytes]]:
        """The predictions that are `wanted`: by partition and position, what `Log.erase` puts in their place.

        `may_be_in` looks at a payload before it is decoded.
        """
        found: dict[str, dict[int, bytes]] = {}
        for partition, last in self.log.positions().items():
            after = 0
            while after < last and (records := self.log.read(partition, after, limit=_BLOCK)):
                for record in records:
                    if record.payload.startswith(ERASED) or not may_be_in(record.payload):
                        continue
                    prediction = decode(record.payload, partition, record.position)
                    if wanted(prediction):
                        instead = ERASED + _encoder.encode(prediction.id)
                        found.setdefault(partition, {})[record.position] = instead
                after = records[-1].position
        return found

    def positions_before(self, at_us: int) -> dict[str, int]:
        """Positions behind which every prediction that was made or asked about at `at_us` or later stands."""
        return positions_before(self.log, at_us)

    def close(self) -> None:
        self.log.close()


def _decoded(records: Iterable[LogRecord], model: str | None) -> list[Prediction]:
    """The predictions that were not erased: all, or those of one model."""
    named = b"" if model is None else _encoder.encode(model)  # spares the decoding of most others
    block = [
        decode(one.payload, one.partition, one.position)
        for one in records
        if not one.payload.startswith(ERASED) and (named in one.payload or not one.payload.startswith(_KNOWN))
    ]
    return block if model is None else [prediction for prediction in block if prediction.model == model]


def encode(prediction: Prediction) -> bytes:
    """The payload of a prediction."""
    fields = msgspec.structs.astuple(prediction)
    return FORMAT + _encoder.encode(fields[:-1]) if prediction.scores is None else CLASSES + _encoder.encode(fields)


def payload_writer(
    model: str, version: str, arm: str
) -> Callable[[str, str, int, int, Mapping[str, int], float, bytes, bytes, bytes], bytes]:
    """A function that gives the payloads of a version's live answers: the bytes of `encode`, with no `Prediction` made.

    It takes what differs between them, in the order of the fields: id, request_id, made_at_us, at_us, positions,
    score, request, values, reasons.
    """
    same = msgspec.Raw(b"".join(map(_encoder.encode, (model, version, arm, "live"))))
    no_flags = msgspec.Raw(_encoder.encode(()))
    head = FORMAT + bytes([_FEW | len(_FIELDS) - 1])
    encode_fields = _encoder.encode

    def write(
        prediction_id: str,
        request_id: str,
        made_at_us: int,
        at_us: int,
        positions: Mapping[str, int],
        score: float,
        request: bytes,
        values: bytes,
        reasons: bytes,
    ) -> bytes:
        fields = (
            prediction_id, request_id, same, made_at_us, at_us, positions, score, request, values, reasons, no_flags,
        )  # fmt: skip
        return head + encode_fields(fields)[1:]  # its first byte counts `same` as one field

    return write


def encode_all(common: Prediction, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """The payloads of predictions that have most fields in common: for each the bytes of `encode`, in half the time.

    Args:
        common: What all of them are, but for the fields that `columns` names.
        columns: By the field's name a value for each prediction; of `scores` none may be None.

    Raises:
        Misuse: The columns' lengths differ, or there are none; a name is no field.

    >>> from trimtab.core.records import Prediction
    >>> one = Prediction(
    ...     id="a", request_id="r", model="m", version="v", arm="champion", mode="batch", made_at_us=1, at_us=1,
    ...     positions={}, score=0.5, request=b"", values=b"", reasons=b"",
    ... )
    >>> other = msgspec.structs.replace(one, id="b", score=0.25)
    >>> encode_all(one, {"id": ["a", "b"], "score": [0.5, 0.25]}) == [encode(one), encode(other)]
    True
    """
    lengths = {name: len(values) for name, values in columns.items()}
    unknown = lengths.keys() - _FIELDS
    if unknown or len(set(lengths.values())) != 1:
        raise Misuse(f"predictions: columns {lengths}. Give fields of a prediction, and one value of each for each.")
    several = common.scores is not None or "scores" in columns
    format_, fields = (CLASSES, _FIELDS) if several else (FORMAT, _FIELDS[:-1])
    encode_row = _encoder.encode
    of_field = (columns[name] if name in columns else repeat(getattr(common, name)) for name in fields)
    rows = zip(*of_field, strict=False)  # what repeats has no end
    return [format_ + encode_row(row) for row in rows]


def decode(payload: bytes, partition: str, position: int) -> Prediction:
    """The prediction in a payload; `partition` and `position` name it in errors.

    Raises:
        Corrupt: The payload is none, or of a format that this version does not know.
    """
    if not payload.startswith(_KNOWN):
        raise Corrupt(
            f"prediction log, {partition} at {position}: format {payload[:1].hex() or 'empty'}, this trimtab reads "
            f"{FORMAT.hex()} and {CLASSES.hex()}. Upgrade it."
        )
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"prediction log, {partition} at {position}: is no prediction ({error}). Restore the partition from a copy."
        ) from error


def payload_id(payload: bytes) -> str:
    """The identifier in a payload.

    Raises:
        Corrupt: The payload is no prediction.
    """
    return decode(payload, "a payload", 0).id


def prediction_columns(predictions: Sequence[Prediction], classes: Sequence[str] = ()) -> Columns:
    """The scalars of predictions: id, request_id, model, version, arm, mode, made_at, at, score.

    With `classes` also `prediction`, and a column `scores.NAME` for each of them: 0 for a class that the version did
    not know, null where it answered with one number.
    """
    same: dict[str, str] = {}  # one object for all that say the same: millions of rows are kept
    known = [{} if p.scores is None else p.scores for p in predictions]
    several: dict[str, tuple[Dtype, list[Any]]] = {
        f"scores.{name}": ("float", [found.get(name, 0.0) if found else None for found in known]) for name in classes
    }
    if classes:
        several["prediction"] = ("str", [p.prediction for p in predictions])
    return Columns.of(
        {
            "id": ("str", [p.id for p in predictions]),
            "request_id": ("str", [p.request_id for p in predictions]),
            "model": ("str", [same.setdefault(p.model, p.model) for p in predictions]),
            "version": ("str", [same.setdefault(p.version, p.version) for p in predictions]),
            "arm": ("str", [same.setdefault(p.arm, p.arm) for p in predictions]),
            "mode": ("str", [same.setdefault(p.mode, p.mode) for p in predictions]),
            "made_at": ("time", [p.made_at_us for p in predictions]),
            "at": ("time", [p.at_us for p in predictions]),
            "score": ("float", [p.score for p in predictions]),
            **several,
        }
    )


def input_matrix(predictions: Sequence[Prediction]) -> NDArray[Any]:
    """The model inputs that were used, float64, shape (predictions, inputs); null is NaN.

    Raises:
        Misuse: The predictions are of versions with different numbers of inputs.
    """
    import numpy as np

    flat = np.frombuffer(b"".join(p.values for p in predictions), "<f8")
    return flat.reshape(len(predictions), _width(predictions, "values", 8))


def reason_matrix(predictions: Sequence[Prediction]) -> NDArray[Any]:
    """The reason codes that were logged, uint8, shape (predictions, inputs); 255: not from a view.

    Raises:
        Misuse: The predictions are of versions with different numbers of inputs.
    """
    import numpy as np

    flat = np.frombuffer(b"".join(p.reasons for p in predictions), np.uint8)
    return flat.reshape(len(predictions), _width(predictions, "reasons", 1))


def _width(predictions: Sequence[Prediction], field: str, size_bytes: int) -> int:
    widths = {len(getattr(p, field)) // size_bytes for p in predictions}
    if len(widths) > 1:
        raise Misuse(f"predictions: {sorted(widths)} inputs a row. Split them by `version` first.")
    return widths.pop() if widths else 0


_KNOWN = FORMAT, CLASSES
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Prediction)
_FIELDS = Prediction.__struct_fields__
