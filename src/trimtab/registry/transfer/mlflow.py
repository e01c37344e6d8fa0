"""Write and read MLflow model folders without MLflow. # D60"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import format_time
from trimtab.registry.describing.signature import Field, Signature
from trimtab.registry.versions import Version
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.runtimes.table import ROWS, RuntimeRow, runtime_named

MLMODEL = "MLmodel"
CODE_FOLDER, CODE_MODULE = "code", "trimtab_model"
# an int becomes a double, because integers in MLflow cannot be null
_TYPES = {"float": "double", "int": "double", "time": "double", "bool": "boolean", "category": "string"}

OF_TORCH = (
    "The file has only weights without the code of the module, or code that only PyTorch runs. Save the model as ONNX "
    "and import that. The module must take one float input, replace nulls (NaN) with numbers (torch.nan_to_num), and "
    "return the prediction (a probability: after its sigmoid or softmax). Run pip install onnx onnxscript, and then "
    'torch.onnx.export(module.eval(), (torch.zeros(2, INPUTS),), "model.onnx", dynamo=True, dynamic_shapes=({0: '
    '"rows"},), external_data=False). Or declare the network with trimtab.training.neural and train it here.'
)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The model file that was found in an MLflow folder."""

    file: Path
    format: str  # the name of the format in the table of runtimes (libraries)
    inputs: tuple[str, ...]  # the inputs named by the folder's signature; empty if it names none


def mlflow_files(
    version: Version, artifact: Artifact, signature: Signature, *, file: str, made_with: Mapping[str, str]
) -> dict[str, bytes]:
    """Return the files that turn an export into an MLflow model folder, which `mlflow.pyfunc.load_model` can read.

    The folder has two flavours (MLflow's word for ways to load a model). "python_function" gives the scores of the
    version. The library's flavour gives the bare estimator, which takes the encoded matrix and does not calibrate.
    """
    packages = [f"{name}=={number}" for name, number in made_with.items() if name != "python"]
    flavors: dict[str, Any] = {
        "python_function": {
            "loader_module": CODE_MODULE,
            "python_version": made_with["python"],
            "code": CODE_FOLDER,
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        }
    }
    own = runtime_named(artifact.runtime).format.flavor
    if own is not None:
        flavors[artifact.runtime] = own(file, artifact.kind, made_with)
    document = {
        "flavors": flavors,
        "signature": {
            "inputs": msgspec.json.encode([_column(field) for field in signature.inputs]).decode(),
            "outputs": msgspec.json.encode([_output(artifact)]).decode(),
            "params": None,
        },
        "utc_time_created": format_time(version.made_at_us)[:19].replace("T", " "),
        "metadata": {"trimtab_version": version.name, "trimtab_address": version.id},
    }
    conda = {
        "name": "trimtab-model",
        "channels": ["conda-forge"],
        "dependencies": [f"python={made_with['python']}", "pip", {"pip": packages}],
    }
    environment = {
        "python": made_with["python"],
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    written: dict[str, dict[str, Any]] = {MLMODEL: document, "conda.yaml": conda, "python_env.yaml": environment}
    return {name: _write_yaml(content).encode() for name, content in written.items()}


def read_mlflow(folder: Path) -> Found:
    """Return the model file that an MLflow folder names in the first flavour that can be imported.

    Raises:
        NotFound: The folder is no MLflow model folder, or the file that it names does not exist.
        Misuse: The folder's description cannot be read, has no flavour that can be imported, or names a file outside of
            the folder.
    """
    what = f"import {folder}"
    try:
        text = (folder / MLMODEL).read_text("utf-8")
    except FileNotFoundError:
        raise NotFound(f"{what}: the folder has no {MLMODEL}. Give an MLflow model folder, or a model file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"{what}: its {MLMODEL} cannot be read: {error}") from error
    document = _read_yaml(what, text)
    flavors = document.get("flavors")
    if not isinstance(flavors, dict):
        raise Misuse(f"{what}: its {MLMODEL} names no flavors.")
    for row in ROWS:
        if row.endings and isinstance(flavor := flavors.get(row.name), dict):
            return Found(
                file=_named_file(what, folder, flavor), format=_format(row, flavor), inputs=_inputs(what, document)
            )
    if "pytorch" in flavors:
        raise Misuse(f"{what}: it is a model of PyTorch. {OF_TORCH}")
    known = ", ".join(row.name for row in ROWS if row.endings and row.estimators)
    raise Misuse(f"{what}: it has the flavors {', '.join(flavors) or 'none'}; trimtab imports {known}.")


def _write_yaml(document: Mapping[str, Any], indent: int = 0) -> str:
    """Write a document as YAML in block style. Values are written as JSON, which is valid YAML.

    >>> print(_write_yaml({"flavors": {"lightgbm": {"data": "model.txt", "code": None}}}), end="")
    flavors:
      lightgbm:
        data: "model.txt"
        code: null
    """
    out = ""
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            out += f"{' ' * indent}{name}:\n{_write_yaml(value, indent + 2)}"
        else:
            out += f"{' ' * indent}{name}: {msgspec.json.encode(value).decode()}\n"
    return out


def _read_yaml(what: str, text: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise Misuse(
            f'{what}: an {MLMODEL} file is YAML, and PyYAML is not installed. pip install "trimtab[mlflow]", or give '
            "the model's own file."
        ) from error
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Misuse(f"{what}: its {MLMODEL} is not YAML: {error}. Give the model's own file.") from error
    if not isinstance(found, dict):
        raise Misuse(f"{what}: its {MLMODEL} does not hold a mapping. Give the model's own file.")
    return found


def _column(field: Field) -> dict[str, Any]:
    return {"type": _TYPES[field.type], "name": field.name, "required": True}


def _output(artifact: Artifact) -> dict[str, Any]:
    shape = [-1, -1] if artifact.task == "multiclass" else [-1]
    return {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": shape}}


def _named_file(what: str, folder: Path, flavor: Mapping[str, Any]) -> Path:
    named = next((flavor[key] for key in ("data", "pickled_model") if flavor.get(key)), None)
    if not isinstance(named, str):
        raise Misuse(f"{what}: its {MLMODEL} does not name the model's file.")
    file = (folder / named).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise Misuse(f"{what}: its {MLMODEL} names {named!r}, which is outside the folder.")
    if not file.is_file():
        raise NotFound(f"{what}: its {MLMODEL} names {named!r}, but there is no such file.")
    return file


def _format(row: RuntimeRow, flavor: Mapping[str, Any]) -> str:
    kind = str(flavor.get("serialization_format") or "pickle")
    model_class = str(flavor.get("model_class", "lightgbm.basic.Booster"))
    whole_estimator = row.name == "lightgbm" and not model_class.endswith("Booster")
    if row.name == "sklearn" or whole_estimator:
        return "skops" if kind == "skops" else "pickle"
    return row.format


def _inputs(what: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    signature = document.get("signature")
    inputs = signature.get("inputs") if isinstance(signature, dict) else None
    if not inputs:
        return ()
    try:
        columns = msgspec.json.decode(inputs, type=list[dict[str, Any]])
    except (msgspec.DecodeError, TypeError) as error:
        raise Misuse(f"{what}: the signature in its {MLMODEL} cannot be read: {error}") from error
    return tuple(str(column["name"]) for column in columns if "name" in column)
