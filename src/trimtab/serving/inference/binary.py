"""The protocol's JSON, and tensors in binary behind it: bodies to requests, answers to bodies."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.serving.http.requests.wire import too_large
from trimtab.serving.inference.inferring import Infer, Inferred, check_parameters
from trimtab.serving.inference.tensors import InputTensor
from trimtab.serving.problems import Refused, decode_problem

BINARY_SIZE = "binary_data_size"
BINARY = "binary_data"  # a parameter of an output: its own answer in binary
BINARY_OUTPUT = "binary_data_output"  # a parameter of a request: the same for all outputs
_WINDOWS = {"gzip": 31, "deflate": 15}  # of zlib: with the header of gzip, or of zlib itself
_MEMBERS = 256  # of a gzip: each costs a copy of what is behind it
_QUICK = 1  # compression level


class InputParameters(msgspec.Struct, frozen=True, gc=False):
    """The parameters of an input; others are passed over."""

    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class JsonInput(msgspec.Struct, frozen=True, gc=False):
    """An input as JSON has it."""

    name: str
    shape: list[int]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class JsonOutput(msgspec.Struct, frozen=True):
    """An output asked for."""

    name: str
    parameters: dict[str, Any] = {}


class JsonInfer(msgspec.Struct, frozen=True):
    """A request as JSON has it; further fields are passed over."""

    inputs: list[JsonInput]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[JsonOutput] = []


class Read(msgspec.Struct, frozen=True, gc=False):
    """A request, and which outputs go back in binary."""

    asked: Infer
    binary: bool  # those that nothing is said about
    binary_of: Mapping[str, bool]


_decoder = msgspec.json.Decoder(JsonInfer)
_encode = msgspec.json.Encoder().encode


def read_infer(model: str, version: str, body: bytes, header_bytes: int | None) -> Read:
    """The request in a body.

    Args:
        model: Of the address.
        version: Of the address; may be empty.
        body: JSON, and binary tensors behind it.
        header_bytes: How long the JSON is; None: there is nothing behind it.

    Raises:
        Misuse: It is no such request; says where.
    """
    if header_bytes is not None and not 0 < header_bytes <= len(body):
        raise Misuse(f"inference-header-content-length: {header_bytes} of a body of {len(body)} bytes.")
    head = body if header_bytes is None else body[:header_bytes]
    try:
        given = _decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise decode_problem(error, head) from error
    check_parameters(given.parameters)
    asked = Infer(
        model=model,
        version=version,
        id=given.id,
        parameters=given.parameters,
        inputs=_inputs(given.inputs, body, len(head)),
        outputs=[one.name for one in given.outputs],
        size_bytes=len(body),
    )
    for one in given.outputs:
        check_parameters(one.parameters)
    binary_of = {one.name: bool(one.parameters[BINARY]) for one in given.outputs if BINARY in one.parameters}
    return Read(asked, bool(given.parameters.get(BINARY_OUTPUT)), binary_of)


def _inputs(given: Sequence[JsonInput], body: bytes, at: int) -> list[InputTensor]:
    """The tensors, with their shares of what stands in the body from `at` on, in order."""
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
                f"input {one.name[:60]!r}: {BINARY_SIZE} is {str(size)[:60]}; {end - at} bytes are left behind "
                "the JSON (inference-header-content-length says where it ends)."
            )
        if data is not None:
            raise Misuse(f"input {one.name[:60]!r}: has both `data` and {BINARY_SIZE}. Send one of them.")
        out.append(InputTensor(one.name, one.datatype, one.shape, body[at : at + size]))
        at += size
    if at != end:
        raise Misuse(f"body: {end - at} bytes more than its tensors have ({BINARY_SIZE}).")
    return out


def write_inferred(inferred: Inferred, read: Read) -> tuple[bytes, int | None]:
    """The body of an answer, and how long the JSON in it is; None: it is all of it."""
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
        if read.binary_of.get(tensor.name, read.binary):
            raw = tensor.raw()
            described["parameters"] = {BINARY_SIZE: len(raw)}
            behind.append(raw)
        else:
            described["data"] = tensor.values
    head["outputs"] = outputs
    text = _encode(head)
    return (b"".join((text, *behind)), len(text)) if behind else (text, None)


def decompressed(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """A body as it was before it was compressed.

    Raises:
        Refused: It is larger than the limit then (413), or compressed otherwise (415).
        Misuse: It is not what it says, or breaks off.
    """
    if encoding in ("", "identity"):
        return body
    window = _WINDOWS.get(encoding)
    if window is None:
        raise Refused(415, f"content-encoding {encoding[:60]!r}: needed is gzip, deflate, or none.")
    out, left = b"", body
    for _ in range(_MEMBERS if encoding == "gzip" else 1):  # RFC 1952, 2.2: one member behind the other
        inflater = zlib.decompressobj(window)
        try:
            out += inflater.decompress(left, limit_bytes + 1 - len(out))
        except zlib.error as error:
            what = f"no {encoding}" if left is body else f"{encoding} that has something else behind its end"
            raise Misuse(f"body: {what} ({error}).") from error
        if len(out) > limit_bytes:
            raise too_large(f"more than {limit_bytes} bytes unpacked", limit_bytes)
        if not inflater.eof:
            raise Misuse(f"body: {encoding} that breaks off.")
        left = inflater.unused_data
        if not left:
            return out
    raise Misuse(f"body: {encoding} that has something behind its end, or more than {_MEMBERS} members.")


def compressed(body: bytes, encoding: str) -> bytes:
    """A body in gzip or deflate."""
    deflater = zlib.compressobj(_QUICK, zlib.DEFLATED, _WINDOWS[encoding])
    return deflater.compress(body) + deflater.flush()


def encoding_of(accepted: str) -> str | None:
    """The compression of an answer among those that its asker takes; None: none.

    >>> encoding_of("br, gzip;q=0.8"), encoding_of("gzip;q=0"), encoding_of("")
    ('gzip', None, None)
    """
    for part in accepted.lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() in _WINDOWS and quality.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name.strip()
    return None
