"""Export of a version as a folder that runs without trimtab: the library's own file, and code to score it.  # D60"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np

from trimtab.core.errors import Conflict, Misuse, Unavailable
from trimtab.core.expressions.code import distribution_version
from trimtab.core.hashing import bytes_hash
from trimtab.core.shown import Shown
from trimtab.registry.describing.signature import Signature, signature_of
from trimtab.registry.loading import LoadedModel
from trimtab.registry.transfer import standalone
from trimtab.registry.transfer.copied import exported_code
from trimtab.registry.transfer.mlflow import CODE_FOLDER, CODE_MODULE, mlflow_files
from trimtab.stats.recalibration import Recalibration
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.runtimes.ports import Trust
from trimtab.training.runtimes.table import runtime_named, runtime_row

# the check allows at least this difference, because on other processors and with other versions of libraries, scores
# differ in the last bits
LEAST_TOLERANCE = 1e-9


class Exported(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The written folder, and the difference between its scores and those of the version."""

    version: str
    folder: str
    files: tuple[str, ...]
    # the file to run; with --check, it repeats the golden predictions (stored scores of stored rows)
    check: str
    golden: int  # the number of golden rows
    # the largest difference between scores of the exported code and golden scores: absolute for scores up to 1, and
    # relative for larger ones
    difference: float
    tolerance: float  # the largest difference that the check allows


def export_version(
    loaded: LoadedModel, folder: Path, *, card: str, mlflow: bool = False, trust: Trust | None = None
) -> Exported:
    """Write a version as a folder that runs without trimtab, and check that the folder repeats the golden predictions.

    Args:
        folder: The folder to write. It must not exist, or it must be empty.
        card: The version's model card in Markdown.
        mlflow: Whether the folder also becomes an MLflow model folder.
        trust: "pickle" allows exporting a version that is stored as a pickle.

    Raises:
        Misuse: The version is a pickle, and `trust` is not "pickle" or `mlflow` is set. Or models of its library
            cannot be exported, or the exported code does not repeat the golden predictions.
        Conflict: `folder` exists and is not empty.
        Unavailable: The folder cannot be written.
    """
    what, artifact = f"export {loaded.version.name}", loaded.artifact
    if artifact.runtime == "pickle" and (mlflow or trust != "pickle"):
        raise Misuse(
            f"{what}: it is stored with pickle, which runs code when it is loaded. "
            + ("A pickle cannot become an MLflow folder." if mlflow else 'Allow it: --trust pickle (trust="pickle").')
        )
    if runtime_named(artifact.runtime).format.export_file is None:
        raise Misuse(f"{what}: {artifact.runtime} models cannot be exported. Use the version through trimtab.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{what}: {folder} exists. Give a folder that does not exist yet, or an empty one.")
    files = exported_files(loaded, card=card, mlflow=mlflow)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, data in files.items():
                (draft / name).parent.mkdir(exist_ok=True)
                (draft / name).write_bytes(data)
            rows, away, allowed = _exported_model(draft, _code_file(mlflow)).check()
            if not away <= allowed:
                raise Misuse(
                    f"{what}: on golden rows the scores of the exported code differ from the version's by {away:.3g} "
                    f"(allowed {allowed:.3g}). Nothing was written. Use the version through trimtab."
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
    """Return the contents of the files of an export, by file name."""
    artifact, version = loaded.artifact, loaded.version
    signature = signature_of(version, artifact)
    form = runtime_named(artifact.runtime).format
    file, data = str(form.export_file), form.native(artifact.estimator)
    made_with = _made_with(loaded)
    about = {
        "format": standalone.FORMAT,
        "version": version.name,
        "address": version.id,
        "model": version.model,
        "runtime": artifact.runtime,
        "kind": artifact.kind,
        "file": file,
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
        file: data,
        "model.json": _document(about),
        "signature.json": _document(signature),
        "golden.json": _document(_golden(artifact, signature)),
        "requirements.txt": _requirements(artifact.runtime, made_with).encode(),
        "card.md": card.encode(),
        _code_file(mlflow): exported_code(artifact.runtime).encode(),
    }
    if artifact.definitions:
        files["features.json"] = _document(msgspec.json.decode(artifact.definitions))
    if mlflow:
        files |= mlflow_files(version, artifact, signature, file=file, made_with=made_with)
    return files


def _code_file(mlflow: bool) -> str:
    return f"{CODE_FOLDER}/{CODE_MODULE}.py" if mlflow else "predict.py"


def _exported_model(folder: Path, code: str) -> Any:
    """Load the model of a folder by running the exported code."""
    file = folder / code
    module = ModuleType("trimtab_exported")
    module.__file__ = str(file)
    # the executed text comes from trimtab itself (`exported_code`)
    exec(compile(file.read_text("utf-8"), str(file), "exec"), module.__dict__)
    return module.Model(folder)


def _made_with(loaded: LoadedModel) -> dict[str, str]:
    """Return the versions of Python and of packages for scoring: those recorded at training, or those installed."""
    there = loaded.version.environment
    found = {"python": there.python}
    for module, package in {"numpy": "numpy", **runtime_row(loaded.artifact.runtime).packages}.items():
        version = there.packages.get(module) or distribution_version(module)
        if version is not None:
            found[package] = version
    return found


def _requirements(runtime: str, made_with: dict[str, str]) -> str:
    lines = [f"# Python {made_with['python']}"]
    lines += [f"{name}=={version}" for name, version in made_with.items() if name != "python"]
    note = runtime_named(runtime).format.requirements_note
    if note is not None:
        lines.append(f"# {note}")
    return "\n".join(lines) + "\n"


def _calibration(recalibration: Recalibration) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(recalibration)
    return {**found, "type": type(recalibration).__struct_config__.tag}


def _golden(artifact: Artifact, signature: Signature) -> dict[str, Any]:
    """Return the golden rows, as a user of the export would write them, and their scores."""
    scores = golden_scores(artifact)
    matrix = np.frombuffer(artifact.golden.rows, "<f8").reshape(len(scores), len(artifact.inputs))
    rows = [
        {
            field.name: _value(field.type, field.values, value)
            for field, value in zip(signature.inputs, row, strict=True)
        }
        for row in matrix.tolist()
    ]
    return {"tolerance": max(LEAST_TOLERANCE, artifact.row_tolerance), "rows": rows, "scores": scores.tolist()}


def golden_scores(artifact: Artifact) -> Any:
    """Return the golden scores, shape (rows,). For a model of several classes the shape is (rows, classes)."""
    scores = np.frombuffer(artifact.golden.scores, "<f8")
    return scores.reshape(-1, len(artifact.class_names)) if artifact.class_names else scores


def _value(kind: str, values: tuple[str, ...], number: float) -> object:
    """Return the input value for a number in the matrix."""
    if number != number:
        return None
    if kind == "category":
        return values[int(number)]
    if kind == "bool":
        return bool(number)
    return int(number) if kind in ("int", "time") else number


def _document(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"
