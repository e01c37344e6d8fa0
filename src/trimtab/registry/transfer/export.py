"""A version as a folder that runs without trimtab: the model in its own format, and a file that asks it. # D60"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trimtab.core.errors import Conflict, Misuse, Unavailable
from trimtab.core.expressions.code import distribution_version
from trimtab.core.hashing import bytes_hash
from trimtab.registry.describing.signature import Signature, signature_of
from trimtab.registry.loading import LoadedModel
from trimtab.registry.transfer import standalone
from trimtab.registry.transfer.mlflow import CODE_FOLDER, CODE_MODULE, mlflow_files
from trimtab.stats.recalibration import Recalibration
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.runtimes.ports import Trust

LEAST_TOLERANCE = 1e-9  # other processors and library versions differ in the last bits
_FILES = {
    "catboost": "model.cbm",
    "lightgbm": "model.txt",
    "onnx": "model.onnx",
    "pickle": "model.pkl",
    "river": "model.skops",
    "sklearn": "model.skops",
    "xgboost": "model.ubj",
}
_PACKAGES = {  # of a runtime: the modules it takes, and what is installed for them
    "catboost": {"catboost": "catboost"},
    "lightgbm": {"lightgbm": "lightgbm", "scipy": "scipy"},
    "onnx": {"onnxruntime": "onnxruntime"},
    "pickle": {"sklearn": "scikit-learn"},
    "river": {"river": "river", "sklearn": "scikit-learn", "skops": "skops"},
    "sklearn": {"sklearn": "scikit-learn", "skops": "skops"},
    "xgboost": {"xgboost": "xgboost"},
}


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and how near it comes to the version."""

    version: str
    folder: str
    files: tuple[str, ...]
    check: str  # the file that repeats the golden predictions when it is run with --check
    golden: int  # rows
    difference: float  # the largest, as the exported code answered them here; relative to scores above 1
    tolerance: float  # what the check allows


def export_version(
    loaded: LoadedModel, folder: Path, *, card: str, mlflow: bool = False, trust: Trust | None = None
) -> Exported:
    """Write a version as a folder that runs without trimtab, and ask it its golden predictions there.

    Args:
        loaded: The version.
        folder: Where to; it must not be there yet, or be empty.
        card: Its model card, Markdown.
        mlflow: Make it an MLflow model folder as well.
        trust: "pickle" allows to export a version that was stored with pickle.

    Raises:
        Misuse: The version is a pickle and nobody said that it may leave like this, its runtime has no export, or the
            exported code does not repeat the golden predictions.
        Conflict: There is something at `folder`.
        Unavailable: It cannot be written.
    """
    what, artifact = f"export {loaded.version.name}", loaded.artifact
    if artifact.runtime == "pickle" and (mlflow or trust != "pickle"):
        raise Misuse(
            f"{what}: it is stored with pickle, which runs code when it is loaded. "
            + ("MLflow folders are not made of pickles." if mlflow else 'Allow that with trust="pickle".')
        )
    if artifact.runtime not in _FILES:
        raise Misuse(f"{what}: there is no export of {artifact.runtime} models; there is of {', '.join(_FILES)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{what}: {folder} exists. Give a folder that is not there yet, or an empty one.")
    files = exported_files(loaded, card=card, mlflow=mlflow)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, data in files.items():
                (draft / name).parent.mkdir(exist_ok=True)
                (draft / name).write_bytes(data)
            rows, away, allowed = standalone.Model(draft).check()
            if not away <= allowed:
                raise Misuse(
                    f"{what}: the exported code answers golden rows {away:.3g} apart from the version, allowed "
                    f"{allowed:.3g}. Nothing was written. Use the version through trimtab."
                )
            draft.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise Unavailable(f"{what}: {folder} cannot be written: {error}. Make room, or give another folder.") from error
    return Exported(
        version=loaded.version.name,
        folder=str(folder),
        files=tuple(sorted(files)),
        check=_code_file(mlflow),
        golden=rows,
        difference=away,
        tolerance=allowed,
    )


def exported_files(loaded: LoadedModel, *, card: str, mlflow: bool) -> dict[str, bytes]:
    """The content of each file of an export, by its name."""
    artifact, version = loaded.artifact, loaded.version
    signature = signature_of(version, artifact)
    data = native_bytes(artifact)
    made_with = _made_with(loaded)
    about = {
        "format": standalone.FORMAT,
        "version": version.name,
        "address": version.id,
        "model": version.model,
        "runtime": artifact.runtime,
        "kind": artifact.kind,
        "file": _FILES[artifact.runtime],
        "sha256": bytes_hash(data),
        "task": artifact.task,
        "metric": artifact.metric,
        "inputs": [{"name": f.name, "type": f.type, "values": f.values} for f in signature.inputs],
        "step": artifact.step,
        "classes": None if artifact.classes is msgspec.UNSET else artifact.classes,
        "calibration": None if artifact.recalibration is None else _calibration(artifact.recalibration),
        "features": version.features,
        "made_with": made_with,
    }
    files = {
        _FILES[artifact.runtime]: data,
        "model.json": _document(about),
        "signature.json": _document(signature),
        "golden.json": _document(_golden(artifact, signature)),
        "requirements.txt": _requirements(artifact.runtime, made_with).encode(),
        "card.md": card.encode(),
        _code_file(mlflow): Path(standalone.__file__).read_bytes(),
    }
    if artifact.definitions:
        files["features.json"] = _document(msgspec.json.decode(artifact.definitions))
    if mlflow:
        files |= mlflow_files(version, artifact, signature, file=_FILES[artifact.runtime], made_with=made_with)
    return files


def native_bytes(artifact: Artifact) -> bytes:
    """The estimator as its own library reads it."""
    if artifact.runtime == "river":  # stored beside the names of its inputs
        data: bytes = msgspec.msgpack.decode(artifact.estimator)["model"]
        return data
    return artifact.estimator


def _code_file(mlflow: bool) -> str:
    return f"{CODE_FOLDER}/{CODE_MODULE}.py" if mlflow else "predict.py"


def _made_with(loaded: LoadedModel) -> dict[str, str]:
    """The versions of Python and of the packages that score it: those of training, else those of here."""
    there = loaded.version.environment
    found = {"python": there.python}
    for module, package in {"numpy": "numpy", **_PACKAGES[loaded.artifact.runtime]}.items():
        version = there.packages.get(module) or distribution_version(module)
        if version is not None:
            found[package] = version
    return found


def _requirements(runtime: str, made_with: dict[str, str]) -> str:
    lines = [f"# Python {made_with['python']}"]
    lines += [f"{name}=={version}" for name, version in made_with.items() if name != "python"]
    if runtime == "xgboost":
        lines.append("# xgboost-cpu of the same version is the same without a graphics card, and much smaller")
    return "\n".join(lines) + "\n"


def _calibration(recalibration: Recalibration) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(recalibration)
    return {**found, "type": type(recalibration).__struct_config__.tag}


def _golden(artifact: Artifact, signature: Signature) -> dict[str, Any]:
    """The golden rows as callers of the export write them, and their scores."""
    scores = golden_scores(artifact)
    matrix = np.frombuffer(artifact.golden.rows, "<f8").reshape(len(scores), len(artifact.inputs))
    rows = [
        {field.name: _told(field.type, field.values, value) for field, value in zip(signature.inputs, row, strict=True)}
        for row in matrix.tolist()
    ]
    return {"tolerance": max(LEAST_TOLERANCE, artifact.row_tolerance), "rows": rows, "scores": scores.tolist()}


def golden_scores(artifact: Artifact) -> Any:
    """The golden scores, shape (rows,), of several classes (rows, classes)."""
    scores = np.frombuffer(artifact.golden.scores, "<f8")
    return scores.reshape(-1, len(artifact.class_names)) if artifact.class_names else scores


def _told(kind: str, values: tuple[str, ...], number: float) -> object:
    """A number of the matrix as the value that it stands for."""
    if number != number:
        return None
    if kind == "category":
        return values[int(number)]
    if kind == "bool":
        return bool(number)
    return int(number) if kind in ("int", "time") else number


def _document(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"
