"""Read and write HTTP bodies of the protocol: JSON, perhaps followed by binary tensors, perhaps compressed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.http.requests.wire import too_large
from trimtab.serving.inference.inferring import Infer, Inferred, check_parameters
from trimtab.serving.inference.tensors import InputTensor
from trimtab.serving.problems import Refused, decode_problem

BINARY_SIZE = "binary_data_size"
BINARY = "binary_data"  # the parameter of an output that requests it in binary form
BINARY_OUTPUT = "binary_data_output"  # the parameter of a request that requests all outputs in binary form
_WINDOWS = {"gzip": 31, "deflate": 15}  # zlib's parameter `wbits`, which selects the format
_QUICK = 1  # the compression level


class InputParameters(msgspec.Struct, frozen=True, gc=False):
    """The parameters of an input. Others are ignored."""

    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class JsonInput(msgspec.Struct, frozen=True, gc=False):
    """An input tensor as JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class JsonOutput(msgspec.Struct, frozen=True):
    """A requested output, as JSON."""

    name: str
    parameters: dict[str, Any] = {}


class JsonInfer(msgspec.Struct, frozen=True):
    """A request as JSON. Unknown fields are ignored."""

    inputs: list[JsonInput]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[JsonOutput] = []


class Binary(msgspec.Struct, frozen=True, gc=False):
    """The choice of which outputs to send in binary form."""

    default: bool = False  # the choice for outputs without a choice of their own
    of: Mapping[str, bool] = {}  # by name of the output: its own choice


# the types of a plain request for one row: only these datatypes and fields. Its decoder refuses any other request.
_ONE: dict[str, Any] = {
    "BOOL": tuple[bool | None], "INT64": tuple[int | None], "FP64": tuple[float | None], "BYTES": tuple[str | None],
}  # fmt: skip
_SHAPE = Annotated[tuple[Literal[1], ...], msgspec.Meta(min_length=1, max_length=2)]
_TENSORS: list[Any] = [
    msgspec.defstruct(
        datatype, [("name", str), ("shape", _SHAPE), ("data", data)],
        tag_field="datatype", tag=datatype, forbid_unknown_fields=True, gc=False,
    )
    for datatype, data in _ONE.items()
]  # fmt: skip
_TENSOR: Any = reduce(or_, _TENSORS)
_NAMED: Any = msgspec.defstruct("Named", [("name", str)], forbid_unknown_fields=True, gc=False)
_ONE_ROW: Any = msgspec.defstruct(
    "OneRow", [("inputs", list[_TENSOR]), ("id", str, ""), ("outputs", list[_NAMED], [])], forbid_unknown_fields=True
)
_one_row = msgspec.json.Decoder(_ONE_ROW).decode
_decoder = msgspec.json.Decoder(JsonInfer)
_encode = msgspec.json.Encoder().encode


def one_row(body: bytes) -> tuple[Row, str, tuple[str, ...]] | None:
    """Return the row, the id and the outputs of a plain request for one row; None if it is not plain.

    >>> one_row(b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [2]}]}')
    ({'x': 2.0}, '', ())
    """
    try:
        given = _one_row(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    row = {one.name: one.data[0] for one in given.inputs}
    outputs = tuple([one.name for one in given.outputs]) if given.outputs else ()
    return (row, given.id, outputs) if len(row) == len(given.inputs) else None


def read_infer(model: str, version: str, body: bytes, header_bytes: int | None) -> tuple[Infer, Binary]:
    """Return the request in a body, and the form of its outputs.

    Args:
        model: The name of the model in the URL.
        version: The version in the URL, or "".
        body: JSON, optionally followed by binary tensors.
        header_bytes: The length of the JSON in bytes. With None, the whole body is JSON.

    Raises:
        Misuse: The body is not a valid request. The message says where.
    """
    if header_bytes is not None and not 0 < header_bytes <= len(body):
        raise Misuse(f"inference-header-content-length: {header_bytes}, but the body has {len(body)} bytes.")
    head = body if header_bytes is None else body[:header_bytes]
    try:
        given = _decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise decode_problem(error, head) from error
    check_parameters(given.parameters)
    request = Infer(
        model=model,
        version=version,
        id=given.id,
        parameters=given.parameters,
        inputs=_inputs(given.inputs, body, len(head)),
        outputs=[one.name for one in given.outputs],
    )
    for one in given.outputs:
        check_parameters(one.parameters)
    binary_of = {one.name: bool(one.parameters[BINARY]) for one in given.outputs if BINARY in one.parameters}
    return request, Binary(bool(given.parameters.get(BINARY_OUTPUT)), binary_of)


def _inputs(given: Sequence[JsonInput], body: bytes, at: int) -> list[InputTensor]:
    """Return the input tensors. Their binary parts follow one another in the body, beginning at `at`."""
    out, end = [], len(body)
    for one in given:
        data = None if one.data is msgspec.UNSET else one.data
        size = one.parameters.binary_data_size
        if one.parameters.shared_memory_region:
            check_parameters({"shared_memory_region": one.parameters.shared_memory_region})
        if size is None:
            out.append(InputTensor(one.name, one.datatype, one.shape, None, data))
            continue
        if not 0 <= size <= end - at:
            raise Misuse(
                f"input {one.name[:60]!r}: {BINARY_SIZE} is {str(size)[:60]}, but {end - at} bytes are left after "
                "the JSON (inference-header-content-length says where the JSON ends)."
            )
        if data is not None:
            raise Misuse(f"input {one.name[:60]!r}: has both `data` and {BINARY_SIZE}. Send one of them.")
        out.append(InputTensor(one.name, one.datatype, one.shape, body[at : at + size]))
        at += size
    if at != end:
        raise Misuse(f"body: {end - at} bytes are left after all tensors. Check the {BINARY_SIZE} of each.")
    return out


def write_inferred(inferred: Inferred, binary: Binary) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON part (None: the whole body is JSON)."""
    head: dict[str, Any] = {"model_name": inferred.model, "model_version": inferred.version}
    if inferred.id:
        head["id"] = inferred.id
    if inferred.parameters:
        head["parameters"] = inferred.parameters
    outputs: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for tensor in inferred.outputs:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        outputs.append(described)
        if binary.of.get(tensor.name, binary.default):
            raw = tensor.raw()
            described["parameters"] = {BINARY_SIZE: len(raw)}
            behind.append(raw)
        else:
            described["data"] = tensor.values
    head["outputs"] = outputs
    text = _encode(head)
    return (b"".join((text, *behind)), len(text)) if behind else (text, None)


def decompressed(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Return the decompressed body.

    Raises:
        Refused: The decompressed body exceeds the limit (413), or the compression is not supported (415).
        Misuse: The body is incomplete, or it is not compressed in the way that its header says.
    """
    if encoding in ("", "identity"):
        return body
    window = _WINDOWS.get(encoding)
    if window is None:
        raise Refused(415, f"content-encoding {encoding[:60]!r}: send gzip, deflate, or an uncompressed body.")
    inflater = zlib.decompressobj(window)
    try:
        out = inflater.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise Misuse(f"body: not {encoding} ({error}).") from error
    if len(out) > limit_bytes:
        raise too_large(f"more than {limit_bytes} bytes decompressed", limit_bytes)
    if not inflater.eof or inflater.unused_data:
        raise Misuse(f"body: the {encoding} data are incomplete, or more data follow after their end.")
    return out


def compressed(body: bytes, encoding: str) -> bytes:
    """Return the body compressed with gzip or deflate."""
    deflater = zlib.compressobj(_QUICK, zlib.DEFLATED, _WINDOWS[encoding])
    return deflater.compress(body) + deflater.flush()


def encoding_of(accepted: str) -> str | None:
    """Return a compression that the client accepts for the response, or None for no compression.

    >>> encoding_of("br, gzip;q=0.8"), encoding_of("gzip;q=0"), encoding_of("")
    ('gzip', None, None)
    """
    for part in accepted.lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() in _WINDOWS and quality.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name.strip()
    return None
