"""Convert gRPC messages to requests, and predictions to gRPC messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trimtab.core.errors import Misuse
from trimtab.serving.inference.inferring import Infer, Inferred, check_parameters
from trimtab.serving.inference.tensors import InputTensor
from trimtab.serving.problems import Refused

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_MOST_FIELDS = 10_000  # the maximum number of fields in a message, not counting those of nested messages


def parsed_message(read: Callable[[bytes], Any], sent: bytes) -> Any:
    """Parse the bytes of a message.

    Raises:
        Misuse: The bytes are not a valid message. If it has too many fields, the error is `Refused` (413).
    """
    from google.protobuf.message import DecodeError

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


def read_infer(request: Any, size_bytes: int) -> Infer:
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
        size_bytes=size_bytes,
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
    """Return parameters as Python values. With `refuse`, raise an error for those of unsupported types."""
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


def write_inferred(response_type: Callable[..., Any], inferred: Inferred) -> Any:
    """Return an inference as a `ModelInferResponse`."""
    response = response_type(model_name=inferred.model, model_version=inferred.version, id=inferred.id)
    for name, value in inferred.parameters.items():
        setattr(response.parameters[name], _choice(value), value)
    for tensor in inferred.outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw())
    return response
