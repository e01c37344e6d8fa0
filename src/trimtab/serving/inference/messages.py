"""Build the gRPC messages of the protocol at run time, from their published field names and numbers.

The messages have their own descriptor pool, so that they do not conflict with a client's stubs in the same process.
Fields that are not in the list are ignored.  # D94
"""

from __future__ import annotations

import re
from typing import Any

_PACKAGE = "inference"
_PARAMETERS = "map<InferParameter>"
_DECLARED = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse.TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3; repeated "
    "ModelMetadataResponse.TensorMetadata inputs = 4; repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "InferParameter": "oneof bool bool_param = 1; oneof int64 int64_param = 2; oneof string string_param = 3; oneof "
    "double double_param = 4; oneof uint64 uint64_param = 5",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2; repeated int64 "
    "int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; repeated float "
    "fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8",
    "ModelInferRequest.InferInputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3; "
    f"{_PARAMETERS} parameters = 4; InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": f"string name = 1; {_PARAMETERS} parameters = 2",
    "ModelInferRequest": f"string model_name = 1; string model_version = 2; string id = 3; {_PARAMETERS} parameters = "
    "4; repeated ModelInferRequest.InferInputTensor inputs = 5; repeated ModelInferRequest.InferRequestedOutputTensor "
    "outputs = 6; repeated bytes raw_input_contents = 7",
    # reads a `ModelInferRequest`, but leaves the tensor descriptions as bytes: `GrpcForm` parses equal ones only once
    "RawInferRequest": f"string model_name = 1; string model_version = 2; string id = 3; {_PARAMETERS} parameters = 4; "
    "repeated bytes inputs = 5; repeated bytes outputs = 6; repeated bytes raw_input_contents = 7",
    "ModelInferResponse.InferOutputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3; "
    f"{_PARAMETERS} parameters = 4; InferTensorContents contents = 5",
    "ModelInferResponse": f"string model_name = 1; string model_version = 2; string id = 3; {_PARAMETERS} parameters = "
    "4; repeated ModelInferResponse.InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6",
    "ModelStreamInferResponse": "string error_message = 1; ModelInferResponse infer_response = 2",
    "ModelConfigRequest": "string name = 1; string version = 2",
    "ModelInput": "string name = 1; DataType data_type = 2; repeated int64 dims = 4; bool optional = 8",
    "ModelOutput": "string name = 1; DataType data_type = 2; repeated int64 dims = 3",
    "ModelParameter": "string string_value = 1",
    "ModelConfig": "string name = 1; string platform = 2; int32 max_batch_size = 4; repeated ModelInput input = 5; "
    "repeated ModelOutput output = 6; map<ModelParameter> parameters = 14; string backend = 17",
    "ModelConfigResponse": "ModelConfig config = 1",
    "ModelStatisticsRequest": "string name = 1; string version = 2",
    "StatisticDuration": "uint64 count = 1; uint64 ns = 2",
    "InferStatistics": "StatisticDuration success = 1; StatisticDuration fail = 2; StatisticDuration queue = 3; "
    "StatisticDuration compute_input = 4; StatisticDuration compute_infer = 5; StatisticDuration compute_output = 6; "
    "StatisticDuration cache_hit = 7; StatisticDuration cache_miss = 8",
    "InferResponseStatistics": "StatisticDuration success = 3",
    "InferBatchStatistics": "uint64 batch_size = 1",
    "MemoryUsage": "string type = 1; int64 id = 2; uint64 byte_size = 3",
    "ModelStatistics": "string name = 1; string version = 2; uint64 last_inference = 3; uint64 inference_count = 4; "
    "uint64 execution_count = 5; InferStatistics inference_stats = 6; repeated InferBatchStatistics batch_stats = 7; "
    "repeated MemoryUsage memory_usage = 8; map<InferResponseStatistics> response_stats = 9",
    "ModelStatisticsResponse": "repeated ModelStatistics model_stats = 1",
    "RepositoryIndexRequest": "string repository_name = 1; bool ready = 2",
    "RepositoryIndexResponse.ModelIndex": "string name = 1; string version = 2; string state = 3; string reason = 4",
    "RepositoryIndexResponse": "repeated RepositoryIndexResponse.ModelIndex models = 1",
    "RepositoryModelLoadRequest": "string repository_name = 1; string model_name = 2",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "string repository_name = 1; string model_name = 2",
    "RepositoryModelUnloadResponse": "",
}
_DATA_TYPES = (
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
    "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING",
)  # fmt: skip
_FIELD = re.compile(r"(?:(repeated|oneof) )?(map<)?([\w.]+)>? (\w+) = (\d+)")


def build_messages() -> dict[str, Any]:
    """Return the message classes by name, such as "ModelInferRequest".

    Raises:
        ImportError: protobuf is not installed.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="trimtab/open_inference.proto", package=_PACKAGE, syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES):
        kinds.value.add(name=name, number=number)
    made: dict[str, Any] = {}
    for path in sorted(_DECLARED):  # sorted, so that "A" comes before the nested "A.B"
        outer, _, name = path.rpartition(".")
        made[path] = made[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
    for path, message in made.items():
        for declared in filter(None, _DECLARED[path].split("; ")):
            _add_field(message, path, declared)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = (path for path in _DECLARED if "." not in path)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in names}


def _add_field(message: Any, path: str, declared: str) -> None:
    match = _FIELD.fullmatch(declared)
    assert match is not None, declared
    rule, is_map, kind, name, number = match.groups()
    if is_map:
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, f"{path}.{entry.name}", "string key = 1")
        _add_field(entry, f"{path}.{entry.name}", f"{kind} value = 2")
        rule, kind = "repeated", f"{path}.{entry.name}"
    field = message.field.add(name=name, number=int(number))
    field.label = field.LABEL_REPEATED if rule == "repeated" else field.LABEL_OPTIONAL
    if kind.islower():
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    else:
        field.type = field.TYPE_ENUM if kind == "DataType" else field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"
    if rule == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
