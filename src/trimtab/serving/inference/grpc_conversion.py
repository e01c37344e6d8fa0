"""Convert gRPC messages to requests, and predictions to gRPC messages."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from trimtab.core.errors import Misuse
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.arms.endpoint import Answered
from trimtab.serving.http.predict.predicting import Predictor
from trimtab.serving.inference.described import TensorMetadata
from trimtab.serving.inference.inferring import (
    Infer,
    InferBody,
    InferenceService,
    InferForm,
    check_parameters,
    check_version,
)
from trimtab.serving.inference.tensors import BYTES, RAW_CODES, InputTensor
from trimtab.serving.problems import Refused

_CONTENTS = {  # by datatype: the field of `InferTensorContents` that has the elements
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_MOST_LAYOUTS = 256  # if this many layouts (see `_OneRow`), or heads of responses, are kept, all are dropped
_LONGEST_BYTES = 16_384  # the layouts of longer messages are not kept
_RAW_OUTPUT = b"\x32"  # the tag of `raw_output_contents`
_MOST_FIELDS = 10_000  # the maximum number of fields in a message, not counting those of nested messages


def parsed_message(read: Callable[[bytes], Any], sent: bytes) -> Any:
    """Parse the bytes of a message.

    Raises:
        Misuse: The bytes are not a valid message. If it has too many fields, the error is `Refused` (413).
    """
    from google.protobuf.message import DecodeError

    if len(sent) > 2 * _MOST_FIELDS:  # each field takes at least two bytes
        _check_fields(sent)
    try:
        return read(sent)
    except DecodeError as error:
        raise Misuse(f"message: cannot be read ({error}). Send what the protocol declares.") from error


def _check_fields(sent: bytes) -> None:
    """Raise an error if a message has very many fields. In memory, a field may take a hundred times its size."""
    at, count = 0, 0
    while at < len(sent):
        tag, at = _varint(sent, at)
        kind, count = tag & 7, count + 1
        if count > _MOST_FIELDS:
            raise Refused(413, f"message: more than {_MOST_FIELDS} fields. Send its rows in parts.")
        if kind == 2:
            size, at = _varint(sent, at)
            at += size
        elif kind == 0:
            _, at = _varint(sent, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return  # a group, which no declared message contains


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that is encoded at a position, and the position after the number."""
    found = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at, found, shift = at + 1, found | (byte & 127) << shift, shift + 7
        if byte < 128:
            break
    return found, at


def read_infer(request: Any) -> Infer:
    """Return the request that a `ModelInferRequest` contains.

    Raises:
        Misuse: The tensors or parameters are not as the protocol demands.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Misuse(
            f"raw_input_contents: {len(raw)} for {len(request.inputs)} inputs. Send one for each input, in their order."
        )
    return Infer(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        parameters=_parameters(request.parameters),
        inputs=[_tensor(tensor, raw[n] if raw else None) for n, tensor in enumerate(request.inputs)],
        outputs=[_output(one) for one in request.outputs],
    )


def _tensor(tensor: Any, raw: bytes | None) -> InputTensor:
    _parameters(tensor.parameters, refuse=True)
    data = None
    if tensor.HasField("contents"):
        if raw is not None:
            raise Misuse(f"input {tensor.name[:60]!r}: has both contents and raw_input_contents. Send one of them.")
        field = _CONTENTS.get(tensor.datatype)
        if field is None:
            raise Misuse(
                f"input {tensor.name[:60]!r}: datatype {tensor.datatype[:20]!r} cannot be sent in contents. "
                "Send the data in raw_input_contents."
            )
        data = list(getattr(tensor.contents, field))
    elif raw is None and 0 in tensor.shape:
        data = []  # an empty tensor
    return InputTensor(tensor.name, tensor.datatype, list(tensor.shape), raw, data)


def _output(output: Any) -> str:
    _parameters(output.parameters, refuse=True)
    name: str = output.name
    return name


def _parameters(given: Mapping[str, Any], *, refuse: bool = False) -> dict[str, Any]:
    """Return parameters as Python values. With `refuse`, raise an error for one that is not supported."""
    out = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise Misuse(f"parameter {name[:60]!r}: has no value. Give a text, a number, true or false.")
        out[name] = getattr(value, choice)
    if refuse:
        check_parameters(out)
    return out


def _choice(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "int64_param" if value < 2**63 else "uint64_param"
    return "string_param" if isinstance(value, str) else "double_param"


class GrpcForm(InferForm):
    """Requests over gRPC, and their responses, as bytes.

    Clients describe their tensors in the same way in each request. So these descriptions are parsed once and kept. For
    a request for one row with raw tensors, known descriptions are compared as bytes, and not parsed again.

    Args:
        messages: The message classes by name.
    """

    def __init__(self, service: InferenceService, predictor: Predictor, messages: Mapping[str, Any]) -> None:
        super().__init__(service, predictor)
        self._read = messages["ModelInferRequest"].FromString
        self._response = messages["ModelInferResponse"]
        self._layouts: dict[tuple[tuple[bytes, ...], tuple[bytes, ...]], _OneRow | None] = {}
        self._heads: dict[tuple[str, int, tuple[TensorMetadata, ...]], bytes] = {}

    def read(self, answerer: Answerer, body: tuple[Any, bytes]) -> InferBody:
        """Return the rows of a request.

        `body` is the request as `RawInferRequest` (descriptions of tensors are left as bytes; see messages.py), and the
        bytes of the whole message.
        """
        message, sent = body
        if not message.parameters and message.raw_input_contents:
            key = tuple(message.inputs), tuple(message.outputs)
            layout = self._layouts[key] if key in self._layouts else self._layout(key, sent)
            if layout is not None and (row := layout.row([*message.raw_input_contents])) is not None:
                if message.model_version:
                    check_version(answerer, message.model_version)
                if (quick := self.quick(answerer, row, message.id, layout.outputs)) is not None:
                    return quick
        return self.checked(answerer, read_infer(parsed_message(self._read, sent)))

    def _layout(self, key: tuple[tuple[bytes, ...], tuple[bytes, ...]], sent: bytes) -> _OneRow | None:
        """Read the descriptions in a message. Keep them, unless the whole message is long."""
        request = parsed_message(self._read, sent)
        layout = _OneRow.of(request)
        if len(self._layouts) >= _MOST_LAYOUTS:
            self._layouts.clear()
        if len(sent) <= _LONGEST_BYTES:
            self._layouts[key] = layout
        return layout

    def write(self, answerer: Answerer, request: InferBody, prepared: Sequence[Answered]) -> bytes:
        inferred = self.inferred(answerer, request, prepared)
        key = inferred.version, len(prepared), request.wanted
        head = self._heads.get(key)
        if head is None:  # equal for all responses of this version with as many rows and the same outputs
            response = self._response(model_name=inferred.model, model_version=inferred.version)
            for tensor in inferred.outputs:
                response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            head = response.SerializeToString()
            if len(self._heads) >= _MOST_LAYOUTS:
                self._heads.clear()
            self._heads[key] = head
        parts = [head]
        if inferred.id or inferred.parameters:
            response = self._response(id=inferred.id)
            for name, value in inferred.parameters.items():
                setattr(response.parameters[name], _choice(value), value)
            parts.append(response.SerializeToString())  # protobuf reads joined messages as one that has all fields
        for tensor in inferred.outputs:
            raw = tensor.raw()
            parts += (_RAW_OUTPUT, varint(len(raw)), raw)
        return b"".join(parts)


class _OneRow(NamedTuple):
    """The layout of the tensors in a request for one row."""

    names: tuple[str, ...]  # the names of tensors: first numbers and booleans, then texts
    sizes: list[int]  # the size of each tensor in bytes, in the order of the message; 0 for texts
    texts: tuple[int, ...]  # the positions of texts in the message
    unpack: Callable[[bytes], tuple[Any, ...]]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, request: Any) -> _OneRow | None:
        """Return the layout of a request; None if it is not for one row of raw tensors, each with its own name."""
        inputs = request.inputs
        known = all(one.datatype in RAW_CODES or one.datatype == BYTES for one in inputs)
        if not known or any(one.parameters or one.HasField("contents") or {*one.shape} != {1} for one in inputs):
            return None
        if any(len(one.shape) > 2 for one in inputs) or any(one.parameters for one in request.outputs):
            return None
        numbers = [one for one in inputs if one.datatype != BYTES]
        texts = tuple(n for n, one in enumerate(inputs) if one.datatype == BYTES)
        names = (*(one.name for one in numbers), *(inputs[n].name for n in texts))
        codes = "".join(RAW_CODES[one.datatype] for one in numbers)
        sizes = [0 if one.datatype == BYTES else struct.calcsize(RAW_CODES[one.datatype]) for one in inputs]
        outputs = tuple(one.name for one in request.outputs)
        return (
            cls(names, sizes, texts, struct.Struct(f"<{codes}").unpack, outputs)
            if len({*names}) == len(names)
            else None
        )

    def row(self, raw: list[bytes]) -> Row | None:
        """Return the values by tensor name (None for NaN); None if the bytes do not fit, or a text is not ASCII."""
        texts = list[str]()
        for n in self.texts:
            text = raw[n] if n < len(raw) else b""
            if len(text) < 4 or int.from_bytes(text[:4], "little") != len(text) - 4 or not text.isascii():
                return None
            texts.append(text[4:].decode())
            raw[n] = b""
        if [*map(len, raw)] != self.sizes:
            return None
        numbers = self.unpack(b"".join(raw))
        if not isfinite(sum(numbers)):
            numbers = tuple([None if value != value else value for value in numbers])  # NaN is not equal to itself
        return dict(zip(self.names, (*numbers, *texts), strict=True))


def varint(number: int) -> bytes:
    r"""Return a number in the encoding of protobuf.

    >>> varint(300)
    b'\xac\x02'
    """
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
