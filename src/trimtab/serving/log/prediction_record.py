"""The record of a prediction: its encoding in the log, its columns in a table, and a form for people.

All three follow the fields of `core.records.Prediction`. If a field with a default is added at the end of that Struct,
it is written and read without a change here. To show the field, add a line to `LoggedPrediction` or to `_COLUMNS`.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from trimtab.core.codegen import define
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.columns.packs import Part, pack
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.records import Prediction
from trimtab.features.frames import NO_VIEW, REASONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# first byte of a payload without `scores`; then a msgpack array of all fields in order, or of those before `scores` if
# the others have their defaults
FORMAT = b"\x01"
CLASSES = b"\x02"  # first byte of a payload with `scores` (of several classes); then an array of all fields. # D76
ERASED = b"\x00"  # first byte of an erased prediction; then its identifier. # D26
KNOWN = FORMAT, CLASSES
_FIELDS = Prediction.__struct_fields__
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Prediction)}
_ALWAYS = _FIELDS.index("scores")  # the number of fields that every payload contains
_TAIL = tuple(_DEFAULTS[name] for name in _FIELDS[_ALWAYS:])  # the defaults of the other fields
_COLUMNS: dict[str, tuple[str, Dtype]] = {  # by column: its field in `Prediction`, and its type
    **{name: (name, "str") for name in ("id", "request_id", "model", "version", "arm", "mode")},
    "made_at": ("made_at_us", "time"),
    "at": ("at_us", "time"),
    "score": ("score", "float"),
}
_FEW_VALUES = frozenset({"model", "version", "arm", "mode"})


def encode(prediction: Prediction) -> bytes:
    """Return a prediction encoded as bytes, its payload."""
    fields = msgspec.structs.astuple(prediction)
    if fields[_ALWAYS:] == _TAIL:
        return FORMAT + encode_value(fields[:_ALWAYS])
    return (FORMAT if prediction.scores is None else CLASSES) + encode_value(fields)


def payload_writer(given: Sequence[str], common: Mapping[str, object]) -> Callable[..., bytes]:
    """Make a function that writes payloads of predictions that share most fields.

    The payloads are those of `encode`, but are made faster, because each live answer needs one: the code is generated
    for these fields, and the shared fields are encoded only once.

    Args:
        given: The fields that the function takes, in this order.
        common: The other fields, but not `scores`. A field that is left out has its default.

    >>> write = payload_writer(["request_id", "score"], {
    ...     "id": "a", "model": "m", "version": "v", "arm": "champion", "mode": "batch", "made_at_us": 1, "at_us": 1,
    ...     "positions": {}, "request": b"", "values": b"", "reasons": b"",
    ... })
    >>> decode(write("r", 0.5), "example", 1).score
    0.5
    """
    # one of `parts` may hold several encoded fields, so the array head for `parts` is replaced by the head for `names`
    names = _FIELDS if {*given, *common}.intersection(_FIELDS[_ALWAYS:]) else _FIELDS[:_ALWAYS]
    parts, constants = list[str](), dict[str, bytes]()
    for name in names:
        if name in given:
            parts.append(name)
            continue
        if not parts or parts[-1] not in constants:  # encode neighbouring constants together
            parts.append(f"constant_{len(constants)}")
        value = common[name] if name in common else _DEFAULTS[name]
        constants[parts[-1]] = constants.get(parts[-1], b"") + encode_value(value)
    lines = [
        f"def write({', '.join(given)}):",
        f"  return head + encode_value(({', '.join(parts)},))[{len(_array_head(len(parts)))}:]",
    ]
    known: dict[str, object] = {name: msgspec.Raw(encoded) for name, encoded in constants.items()}
    known |= {"head": FORMAT + _array_head(len(names)), "encode_value": encode_value}
    write: Callable[..., bytes] = define("write", lines, known, about="the writer of live answers")
    return write


def _array_head(fields: int) -> bytes:
    """Return msgpack's head of an array of this many fields."""
    return encode_value([None] * fields)[:-fields]


class EncodedColumn(msgspec.Struct, frozen=True):
    """A column whose values are encoded already, as parts of a pack."""

    rows: int
    parts: Sequence[Part]

    def __len__(self) -> int:
        return self.rows


Fields: TypeAlias = (
    "Mapping[str, Sequence[Any] | NDArray[Any] | EncodedColumn]"  # by field: its value in each prediction
)


class PackedPredictions(Sequence[Prediction]):
    """Predictions in columns, which can be encoded together."""

    common: Prediction  # a prediction with the fields that all predictions share
    reasons: NDArray[Any]  # for each prediction, the code of the reason for each input; uint8 (rows, inputs)

    @abstractmethod
    def packs(self) -> list[bytes]:
        """Return all predictions encoded for the log, in packs (see `core/columns/packs.py`)."""


def pack_all(common: Prediction, columns: Fields) -> bytes:
    """Return a pack (see `packs.py`) of predictions with most fields in common. Its payloads are those of `encode`.

    Args:
        common: A prediction with the common fields. Its fields that are named in `columns` are ignored.
        columns: The other fields. No value of `scores` may be None. A column of numbers can be an array. So can ASCII
            texts of one length (type S), and bytes (a matrix, each row of which is a value).

    Raises:
        Misuse: The columns have different lengths, there are no columns, or a name is not that of a field.

    >>> from trimtab.core.columns.packs import unpack
    >>> one = Prediction(
    ...     id="a", request_id="r", model="m", version="v", arm="champion", mode="batch", made_at_us=1, at_us=1,
    ...     positions={}, score=0.5, request=b"", values=b"", reasons=b"",
    ... )
    >>> other = msgspec.structs.replace(one, id="b", score=0.25)
    >>> unpack(pack_all(one, {"id": ["a", "b"], "score": [0.5, 0.25]})) == [encode(one), encode(other)]
    True
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if lengths.keys() - _FIELDS or len(set(lengths.values())) != 1:
        raise Misuse(f"predictions: found columns {lengths}, needed fields of a prediction, all of one length.")
    several = common.scores is not None or "scores" in columns
    tail = [columns.get(name, getattr(common, name)) for name in _FIELDS[_ALWAYS:]]
    format_, fields = CLASSES if several else FORMAT, _FIELDS[:_ALWAYS] if tail == [*_TAIL] else _FIELDS
    parts: list[Part] = [format_ + _array_head(len(fields))]
    for name in fields:
        parts += _encoded(columns[name]) if name in columns else (encode_value(getattr(common, name)),)
    return pack(next(iter(lengths.values())), parts)


def _encoded(values: Sequence[Any] | NDArray[Any] | EncodedColumn) -> Sequence[Part]:
    """Return the encoded values of a column, as parts of a pack."""
    if isinstance(values, EncodedColumn):
        return values.parts
    if isinstance(values, (list, tuple)):
        return ([*map(encode_value, values)],)
    import numpy as np

    array = np.asarray(values)
    if array.dtype == np.float64 and array.ndim == 1:
        return b"\xcb", array.astype(">f8")[:, None].view(np.uint8)
    if array.dtype == np.int64 and array.min(initial=1 << 32) >= 1 << 32:  # msgpack writes smaller integers shorter
        return b"\xcf", array.astype(">u8")[:, None].view(np.uint8)
    if array.ndim == 1 and array.dtype.kind != "S":
        return _encoded(array.tolist())
    matrix = np.ascontiguousarray(array if array.ndim > 1 else array[:, None]).view(np.uint8)
    one = b"\0" * matrix.shape[1]  # encoded to get msgpack's head of a value of this length
    return encode_value(one if array.ndim > 1 else one.decode())[: -len(one) or None], matrix


def decode(payload: bytes, partition: str, position: int) -> Prediction:
    """Return the prediction that a payload encodes. `partition` and `position` are for error messages.

    Raises:
        Corrupt: The payload is not a prediction, or has a format that this version does not know.
    """
    if not payload.startswith(KNOWN):
        raise Corrupt(
            f"prediction log, {partition} at {position}: found format {payload[:1].hex() or 'empty'}, but this "
            f"trimtab reads {FORMAT.hex()} and {CLASSES.hex()}. Upgrade trimtab."
        )
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(
            f"prediction log, {partition} at {position}: not a prediction ({error}). Restore the partition from a copy."
        ) from error


def payload_id(payload: bytes) -> str:
    """Return the id of the prediction that a payload encodes.

    Raises:
        Corrupt: The payload is not a prediction.
    """
    return decode(payload, "a payload", 0).id


class LoggedPrediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A logged prediction in a form for people, with decoded fields."""

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
    request: list[Any]  # the columns of the request, in declared order
    values: list[float]  # the model inputs; in JSON, NaN becomes null
    reasons: list[str | None]  # by input: "found", or why the value is null; None: not from a view, and not failed
    flags: tuple[str, ...]
    prediction: str | None = None  # only with several classes: the most likely class
    scores: dict[str, float] | None = None


def logged_prediction(prediction: Prediction) -> LoggedPrediction:
    """Return a prediction in the form for people."""
    fields = {name: getattr(prediction, name) for name in LoggedPrediction.__struct_fields__}
    return LoggedPrediction(**fields | {name: unpack(fields[name]) for name, unpack in _UNPACK.items()})


_UNPACK: dict[str, Callable[[bytes], Any]] = {
    "request": msgspec.msgpack.decode,
    "values": lambda packed: list(struct.unpack(f"<{len(packed) // 8}d", packed)),
    "reasons": lambda packed: [None if code == NO_VIEW else REASONS[code] for code in packed],
}


def prediction_columns(predictions: Sequence[Prediction], classes: Sequence[str] = ()) -> Columns:
    """Return the scalar fields of predictions: id, request_id, model, version, arm, mode, made_at, at, score.

    With `classes`, the result also has a column `prediction`, and a column `scores.NAME` for each class. If the version
    did not know a class, the score of the class is null; if it answered with a single number, all these scores are.
    """
    shared: dict[str, str] = {}  # equal texts share one object, which saves memory for millions of rows
    found: dict[str, tuple[Dtype, list[Any]]] = {}
    for name, (field, dtype) in _COLUMNS.items():
        values = list(map(attrgetter(field), predictions))
        found[name] = dtype, [shared.setdefault(v, v) for v in values] if name in _FEW_VALUES else values
    known = [{} if p.scores is None else p.scores for p in predictions]
    for name in classes:
        found[f"scores.{name}"] = "float", [scores.get(name) for scores in known]
    if classes:
        found["prediction"] = "str", [p.prediction for p in predictions]
    return Columns.of(found)


encode_value = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Prediction)
