"""MLflow model folders, written and read without MLflow. # D61"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from trimtab.core.errors import Misuse, NotFound
from trimtab.core.expressions.code import distribution_version
from trimtab.core.time import format_time
from trimtab.registry.describing.signature import Field, Signature
from trimtab.registry.transfer.mlmodel import read_yaml, write_yaml
from trimtab.registry.versions import Version
from trimtab.training.fitting.artifact import Artifact

MLMODEL = "MLmodel"
CODE_FOLDER, CODE_MODULE = "code", "trimtab_model"
_TYPES = {"float": "double", "int": "double", "time": "double", "bool": "boolean", "category": "string"}  # int: nulls

OF_TORCH = (
    "It holds weights, and its module is code that is not in it or that only PyTorch runs. Save it as ONNX and import "
    "that: let the module take one float input, in which nulls are NaN (torch.nan_to_num), and end with what is to be "
    "answered (a chance: with its sigmoid or softmax), pip install onnx onnxscript, then "
    'torch.onnx.export(module.eval(), (torch.zeros(2, INPUTS),), "model.onnx", dynamo=True, '
    'dynamic_shapes=({0: "rows"},), external_data=False). Or declare the network with trimtab.training.neural and '
    "train it here."
)

Format = Literal["lightgbm", "xgboost", "catboost", "onnx", "skops", "pickle"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The model file of an MLflow folder."""

    file: Path
    format: Format
    inputs: tuple[str, ...]  # of its signature; empty: it has none with names


def mlflow_files(
    version: Version, artifact: Artifact, signature: Signature, *, file: str, made_with: Mapping[str, str]
) -> dict[str, bytes]:
    """What makes an export an MLflow model folder: it is read by `mlflow.pyfunc.load_model`.

    The flavour "python_function" gives the version's own scores. A library's own flavour beside it is the bare
    estimator: it takes the encoded matrix, and knows no calibration.
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
    flavors |= _own_flavor(artifact, file, made_with)
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
    return {name: write_yaml(content).encode() for name, content in written.items()}


def read_mlflow(folder: Path) -> Found:
    """The model file that an MLflow folder names, of the first flavour that can be imported.

    Raises:
        NotFound: It is no MLflow model folder, or the file it names is not there.
        Misuse: It has no such flavour, or names a file outside of itself.
    """
    what = f"import {folder}"
    try:
        document = read_yaml((folder / MLMODEL).read_text("utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{what}: there is no {MLMODEL} in it. Give an MLflow model folder, or a model file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"{what}: its {MLMODEL} cannot be read: {error}") from error
    flavors = document.get("flavors")
    if not isinstance(flavors, dict):
        raise Misuse(f"{what}: its {MLMODEL} names no flavors.")
    for name in ("lightgbm", "xgboost", "catboost", "onnx", "sklearn"):
        if isinstance(flavor := flavors.get(name), dict):
            return Found(
                file=_named_file(what, folder, flavor), format=_format(name, flavor), inputs=_inputs(what, document)
            )
    if "pytorch" in flavors:
        raise Misuse(f"{what}: it is a model of PyTorch. {OF_TORCH}")
    raise Misuse(
        f"{what}: it has the flavors {', '.join(flavors) or 'none'}; imported are lightgbm, xgboost, catboost, onnx "
        "and sklearn."
    )


def _own_flavor(artifact: Artifact, file: str, made_with: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The flavour of the model's own library, where MLflow has one for its format."""
    match artifact.runtime:
        case "lightgbm":
            about = {"lgb_version": made_with.get("lightgbm"), "model_class": "lightgbm.basic.Booster"}
            return {"lightgbm": {"data": file, "code": None, **about}}
        case "xgboost":
            about = {"xgb_version": made_with.get("xgboost"), "model_class": "xgboost.core.Booster"}
            return {"xgboost": {"data": file, "code": None, "model_format": "ubj", **about}}
        case "catboost":
            kind = artifact.kind if artifact.kind in ("CatBoostClassifier", "CatBoostRegressor") else "CatBoost"
            about = {"catboost_version": made_with.get("catboost"), "model_type": kind, "save_format": "cbm"}
            return {"catboost": {"data": file, "code": None, **about}}
        case "onnx":
            providers = ["CPUExecutionProvider"]
            about = {"onnx_version": distribution_version("onnx"), "onnx_session_options": None}
            return {"onnx": {"data": file, "code": None, "providers": providers, **about}}
        case "sklearn":
            from trimtab.training.runtimes.skops_bytes import ALLOWED  # here: it loads scikit-learn

            about = {"sklearn_version": made_with.get("scikit-learn"), "serialization_format": "skops"}
            return {"sklearn": {"pickled_model": file, "code": None, "skops_trusted_types": list(ALLOWED), **about}}
    return {}


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
        raise Misuse(f"{what}: its {MLMODEL} names {named!r}, which lies outside of it.")
    if not file.is_file():
        raise NotFound(f"{what}: its {MLMODEL} names {named!r}, and there is no such file.")
    return file


def _format(name: str, flavor: Mapping[str, Any]) -> Format:
    kind = str(flavor.get("serialization_format") or "pickle")
    whole_estimator = name == "lightgbm" and not str(flavor.get("model_class", "lightgbm.basic.Booster")).endswith(
        "Booster"
    )
    if name == "sklearn" or whole_estimator:
        return "skops" if kind == "skops" else "pickle"
    formats: dict[str, Format] = {"lightgbm": "lightgbm", "xgboost": "xgboost", "catboost": "catboost", "onnx": "onnx"}
    return formats[name]


def _inputs(what: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    signature = document.get("signature")
    told = signature.get("inputs") if isinstance(signature, dict) else None
    if not told:
        return ()
    try:
        columns = msgspec.json.decode(told, type=list[dict[str, Any]])
    except (msgspec.DecodeError, TypeError) as error:
        raise Misuse(f"{what}: the signature in its {MLMODEL} cannot be read: {error}") from error
    return tuple(str(column["name"]) for column in columns if "name" in column)
