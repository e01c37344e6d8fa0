"""The record of a prediction: its bytes in the log, its columns, and the form that people read.

All three follow the fields of `core.records.Prediction`. If a field with a default is added there as the last field, it
is written and read without a change here, except by `payload_writer`, which live answers use. To show the field, add a
line to `LoggedPrediction` or to `_COLUMNS`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.records import Prediction
from trimtab.features.frames import NO_VIEW, REASONS

if TYPE_CHECKING:  # NumPy is loaded on first use, so that `import trimtab` stays light
    from numpy.typing import NDArray

FORMAT = b"\x01"  # first byte of a payload; then a msgpack array of the fields in order, without defaults at its end
CLASSES = b"\x02"  # first byte of a prediction with several classes, which has `scores`: all fields. # D76
ERASED = b"\x00"  # first byte of an erased prediction; then its identifier. # D26
KNOWN = FORMAT, CLASSES
_FIELDS = Prediction.__struct_fields__
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Prediction)}
_ALWAYS = _FIELDS.index("scores")  # number of fields that are in every payload
_TAIL = tuple(_DEFAULTS[name] for name in _FIELDS[_ALWAYS:])
_COLUMNS: dict[str, tuple[str, Dtype]] = {  # field and type of each column, by the column's name
    **{name: (name, "str") for name in ("id", "request_id", "model", "version", "arm", "mode")},
    "made_at": ("made_at_us", "time"),
    "at": ("at_us", "time"),
    "score": ("score", "float"),
}
_FEW_VALUES = frozenset({"model", "version", "arm", "mode"})


def encode(prediction: Prediction) -> bytes:
    """Return the payload of a prediction."""
    fields = msgspec.structs.astuple(prediction)
    if fields[_ALWAYS:] == _TAIL:
        return FORMAT + encode_value(fields[:_ALWAYS])
    return (FORMAT if prediction.scores is None else CLASSES) + encode_value(fields)


def payload_writer(
    model: str, version: str, arm: str
) -> Callable[[str, str, int, int, Mapping[str, int], float, bytes, bytes, bytes], bytes]:
    """Make a function that writes payloads of one version's live answers.

    The payloads have the bytes of `encode`, but are made directly. The function takes the fields that differ, in their
    order: id, request_id, made_at_us, at_us, positions, score, request, values, reasons. Calls are inlined in it,
    because every answer goes through it.
    """
    of_version = msgspec.Raw(b"".join(map(encode_value, (model, version, arm, "live"))))
    behind = _FIELDS[_FIELDS.index("reasons") + 1 : _ALWAYS]  # fields that have their defaults
    rest = msgspec.Raw(b"".join(encode_value(_DEFAULTS[name]) for name in behind))
    head = FORMAT + encode_value([None] * _ALWAYS)[:-_ALWAYS]  # msgpack's head of an array with this many fields
    encode_fields = encode_value

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
            prediction_id, request_id, of_version, made_at_us, at_us, positions, score, request, values, reasons, rest,
        )  # fmt: skip
        return head + encode_fields(fields)[1:]  # its own head counts `of_version` and `rest` as one field each

    return write


def encode_all(common: Prediction, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """Return the payloads of predictions that share most fields.

    Each payload has the bytes of `encode`. This takes half the time.

    Args:
        common: The shared fields. Fields that `columns` names are ignored.
        columns: By field, a value for each prediction. No value of `scores` may be None.

    Raises:
        Misuse: The columns' lengths differ, there are no columns, or a name is not a field.

    >>> one = Prediction(
    ...     id="a", request_id="r", model="m", version="v", arm="champion", mode="batch", made_at_us=1, at_us=1,
    ...     positions={}, score=0.5, request=b"", values=b"", reasons=b"",
    ... )
    >>> other = msgspec.structs.replace(one, id="b", score=0.25)
    >>> encode_all(one, {"id": ["a", "b"], "score": [0.5, 0.25]}) == [encode(one), encode(other)]
    True
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if lengths.keys() - _FIELDS or len(set(lengths.values())) != 1:
        raise Misuse(f"predictions: found columns {lengths}, needed fields of a prediction, all of one length.")
    several = common.scores is not None or "scores" in columns
    tail = [columns.get(name, getattr(common, name)) for name in _FIELDS[_ALWAYS:]]
    format_, fields = CLASSES if several else FORMAT, _FIELDS[:_ALWAYS] if tail == [*_TAIL] else _FIELDS
    of_field = (columns[name] if name in columns else repeat(getattr(common, name)) for name in fields)
    return [format_ + encode_value(row) for row in zip(*of_field, strict=False)]  # `repeat` is endless


def decode(payload: bytes, partition: str, position: int) -> Prediction:
    """Return the prediction in a payload. `partition` and `position` name the record in errors.

    Raises:
        Corrupt: The payload is not a prediction, or has a format that this version does not know.
    """
    if not payload.startswith(KNOWN):
        raise Corrupt(
            f"prediction log, {partition} at {position}: found format {payload[:1].hex() or 'empty'}, this trimtab "
            f"reads {FORMAT.hex()} and {CLASSES.hex()}. Upgrade it."
        )
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"prediction log, {partition} at {position}: is no prediction ({error}). Restore the partition from a copy."
        ) from error


def payload_id(payload: bytes) -> str:
    """Return the identifier in a payload.

    Raises:
        Corrupt: The payload is not a prediction.
    """
    return decode(payload, "a payload", 0).id


class LoggedPrediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row of the prediction log, readable."""

    id: str
    request_id: str
    model: str
    version: str
    arm: str
    mode: str
    made_at_us: int
    at_us: int
    positions: dict[str, int]
    score: float
    request: list[Any]  # the request's columns in declared order
    values: list[float]  # the model's inputs, null for NaN
    reasons: list[str | None]  # of each input, None: from no view
    flags: tuple[str, ...]
    prediction: str | None = None  # as in an `Answer`
    scores: dict[str, float] | None = None


def logged_prediction(prediction: Prediction) -> LoggedPrediction:
    """Return a prediction with its packed fields unpacked."""
    fields = {name: getattr(prediction, name) for name in LoggedPrediction.__struct_fields__}
    return LoggedPrediction(**fields | {name: unpack(fields[name]) for name, unpack in _UNPACK.items()})


_UNPACK: dict[str, Callable[[bytes], Any]] = {
    "request": msgspec.msgpack.decode,
    "values": lambda packed: list(struct.unpack(f"<{len(packed) // 8}d", packed)),
    "reasons": lambda packed: [None if code == NO_VIEW else REASONS[code] for code in packed],
}


def prediction_columns(predictions: Sequence[Prediction], classes: Sequence[str] = ()) -> Columns:
    """Return the scalars of predictions: id, request_id, model, version, arm, mode, made_at, at, score.

    With `classes`, the result also has a column `prediction`, and a column `scores.NAME` for each class. A score is
    0 for a class that the version did not know, and null where the version answered with one number.
    """
    shared: dict[str, str] = {}  # equal texts share one object, because millions of rows are kept
    found: dict[str, tuple[Dtype, list[Any]]] = {}
    for name, (field, dtype) in _COLUMNS.items():
        values = [getattr(p, field) for p in predictions]
        found[name] = dtype, [shared.setdefault(v, v) for v in values] if name in _FEW_VALUES else values
    known = [{} if p.scores is None else p.scores for p in predictions]
    for name in classes:
        found[f"scores.{name}"] = "float", [scores.get(name, 0.0) if scores else None for scores in known]
    if classes:
        found["prediction"] = "str", [p.prediction for p in predictions]
    return Columns.of(found)


def input_matrix(predictions: Sequence[Prediction]) -> NDArray[Any]:
    """Return the model inputs that were used: float64, shape (predictions, inputs), with NaN for null.

    Raises:
        Misuse: The predictions are of versions with different numbers of inputs.
    """
    return _matrix(predictions, "values", "<f8")


def reason_matrix(predictions: Sequence[Prediction]) -> NDArray[Any]:
    """Return the reason codes that were logged: uint8, shape (predictions, inputs).

    255 marks an input that is not from a view.

    Raises:
        Misuse: The predictions are of versions with different numbers of inputs.
    """
    return _matrix(predictions, "reasons", "u1")


def _matrix(predictions: Sequence[Prediction], field: str, dtype: str) -> NDArray[Any]:
    import numpy as np

    packed = [getattr(p, field) for p in predictions]
    widths = {len(one) // np.dtype(dtype).itemsize for one in packed}
    if len(widths) > 1:
        raise Misuse(f"predictions: found {sorted(widths)} inputs a row, needed one number. Split them by `version`.")
    return np.frombuffer(b"".join(packed), dtype).reshape(len(predictions), widths.pop() if widths else 0)


encode_value = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Prediction)
