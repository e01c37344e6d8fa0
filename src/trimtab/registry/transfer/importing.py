"""Import external models as versions of a declared model. Only pickles can run code, and only if allowed.  # D62"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.hashing import bytes_hash
from trimtab.core.time import format_duration, format_time
from trimtab.features.encoding import Encoding
from trimtab.features.stored import encode_features
from trimtab.registry.transfer import standalone
from trimtab.registry.transfer.inspecting import ScoringTask
from trimtab.registry.transfer.mlflow import MLMODEL, OF_TORCH, read_mlflow
from trimtab.registry.versions import Imported, Version
from trimtab.run import Cancelled, ProcessExecutor, Task, TaskFailed
from trimtab.stats.recalibration import Recalibration
from trimtab.store.ports import Blob
from trimtab.store.regular_file import regular_file
from trimtab.training.data.sets import Manifest
from trimtab.training.definitions import Model
from trimtab.training.fitting.artifact import Artifact, Golden, scorer_for
from trimtab.training.fitting.classes import Classes
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.fitting.standardize import Standardize
from trimtab.training.runtimes.formats import Inspected, ModelFile
from trimtab.training.runtimes.ports import Trust
from trimtab.training.runtimes.table import ROWS, runtime_named, runtime_row

_CHECKED_ROWS = 10_000
LONGEST_S = 60.0  # the time limit for each call of the child process; each megabyte of the file adds a second
_TORCH = (".pt", ".pt2", ".pth", ".ckpt", ".safetensors")
_NO_NAME = re.compile(r"(Column_|f|x|feature_|)\d+")  # the names that libraries give to inputs without names


class FoundModel(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A model file that was found and read as bytes, but not parsed yet."""

    path: Path  # the file, or the folder that holds it
    format: str
    data: bytes
    kind: str  # the format in words, for messages
    declared: tuple[str, ...] = ()  # the names of inputs in an MLflow folder
    exported: dict[str, Any] | None = None  # the contents of model.json, if trimtab exported the folder


def find_model(path: Path) -> FoundModel:
    """Find the model file at a path: the file itself, an MLflow folder, or a folder that trimtab exported.

    Raises:
        NotFound: There is no such file.
        Misuse: Files of this format cannot be imported.
    """
    if path.is_dir():
        if (about := _exported(path / "model.json")) is not None:
            kind = f"exported by trimtab, {about['runtime']}"
            return _read(path, path / about["file"], runtime_row(about["runtime"]).format, kind, exported=about)
        if not (path / MLMODEL).is_file():
            raise NotFound(
                f"import {path}: the folder has neither {MLMODEL} nor the model.json of an export. Give a model "
                "folder, or a model file."
            )
        found = read_mlflow(path)
        return _read(path, found.file, found.format, f"MLflow folder, {found.format}", declared=found.inputs)
    regular_file(path, "import")
    row = next((row for row in ROWS if path.suffix.lower() in row.endings), None)
    if path.suffix.lower() in _TORCH:
        raise Misuse(f"import {path.name}: it is a file of PyTorch. {OF_TORCH}")
    if row is None:
        known = "; ".join(f"{row.format} {', '.join(row.endings)}" for row in ROWS if row.endings)
        raise Misuse(f"import {path.name}: its ending {path.suffix!r} is not known. Known endings: {known}.")
    return _read(path, path, row.format, row.file_kind)


class ModelProcess:
    """Reads a model file and scores rows in a child process, before this process does.

    A damaged file could end or block the process that reads it.
    """

    def __init__(self, given: FoundModel, executor: ProcessExecutor) -> None:
        self._given = given
        self._what = f"import {given.path.name}"
        self._executor = executor

    def inspect(self, file: ModelFile) -> Inspected:
        """Read the file with the model's library.

        Raises:
            Misuse: The library finds no model in the file, takes too long, or ends the process.
        """
        return msgspec.msgpack.decode(self._run("inspect", file, "read"), type=Inspected)

    def score(self, fitted: Fitted, matrix: NDArray[np.float64]) -> None:
        """Score the first 10,000 rows and the last row in the child process. Only the number of scores is checked.

        Raises:
            Misuse: The model takes too long, ends the process, needs too much memory, or gives far too many scores.
        """
        artifact = fitted.artifact
        matrix = np.vstack([matrix[:_CHECKED_ROWS], matrix[-1:]])
        rows = np.ascontiguousarray(matrix if artifact.step is None else artifact.step.apply(matrix), np.float64)
        task = ScoringTask(
            runtime=artifact.runtime, data=artifact.estimator, rows=rows.tobytes(), columns=max(1, rows.shape[1])
        )
        self._run("score", task, "scored")

    def _run(self, function: str, argument: ModelFile | ScoringTask, done: str) -> bytes:
        given = self._given
        longest_s = LONGEST_S + len(given.data) / 1e6
        end_s = monotonic() + longest_s
        task = Task(
            f"trimtab.registry.transfer.inspecting:{function}",
            msgspec.msgpack.encode(argument),
            about=f"reading {given.path.name}",
        )
        try:
            return self._executor.run(
                task, on_event=lambda event: None, cancelled=lambda: "late" if monotonic() > end_s else None
            )
        except Cancelled as error:
            raise Misuse(
                f"{self._what}: {given.format} has not {done} it after {longest_s:.0f} s. "
                "If its graph has an endless loop, save it without one."
            ) from error
        except Unavailable as error:
            raise Misuse(
                f"{self._what}: {given.format} ended its process while it {done} {given.path}. The file is damaged or "
                f"cut short: save it again. ({str(error).removesuffix(' Try again.')})"
            ) from error
        except TaskFailed as error:
            failed = str(error).partition("\n")[0][:200]
            raise Misuse(
                f"{self._what}: {given.format} {done} {given.path} and failed ({failed}). The file is damaged, or "
                "takes far more memory than its size: save it again."
            ) from error
        except Corrupt as error:
            foreign = " For other types, give a folder of `trimtab versions export`, or a pickle (--trust pickle)."
            said = f"{self._what}: {str(error).removesuffix('.')}. Save it again."
            raise Misuse(f"{said}{foreign if 'Untrusted types' in said else ''}") from error


def imported_model(
    given: FoundModel,
    model: Model,
    *,
    process: ModelProcess,
    trust: Trust | None,
    categories: Mapping[str, Sequence[str]] | None,
    cut_us: int,
) -> tuple[Fitted, bool]:
    """Return an imported model as a fitted one, and whether its file names its inputs.

    The model has no golden predictions yet.

    Args:
        model: The declared model whose features the imported model reads.
        process: The child process that reads the file first.
        trust: "pickle" allows a pickle, although loading a pickle runs its code.
        categories: For each category feature, its texts in the order of their integer codes in the model.
        cut_us: The latest time that the model's training data may have.

    Raises:
        Misuse: The library cannot read the file, the inputs are not the features of the declared model, or the texts of
            a category are missing.
    """
    what = f"import {given.path.name}"
    if given.format == "pickle" and trust != "pickle":
        raise Misuse(
            f"{what}: it is a pickle, which runs code when it is read. Save it with skops or as its library's own "
            'file; or allow that with --trust pickle (trust="pickle"), which the version records.'
        )
    encoding, step, recalibration = _encoding(what, given, model, categories)
    inspected = process.inspect(
        ModelFile(
            format=given.format,
            data=given.data,
            probability=model.task in ("binary", "multiclass"),
            names=model.features.names,
        )
    )
    inputs = check_inputs(given, inspected, model)
    runtime = runtime_named(inspected.runtime)
    if step is None and not inspected.accepts_null and inspected.runtime == "onnx":
        raise Misuse(
            f"{what}: its graph gives no number for nulls (NaN), but features may be null. Let the graph replace "
            "nulls first (torch.nan_to_num, or a SimpleImputer in the pipeline), save it again, and import it."
        )
    if step is None and not inspected.accepts_null:
        raise Misuse(
            f"{what}: its {inspected.kind} refuses nulls, but features may be null. Put it into a scikit-learn "
            "pipeline with a SimpleImputer, save that with skops, and import it."
        )
    names = model.label.class_names if model.task == "multiclass" else ()
    artifact = Artifact(
        format=2 if names else 1,
        model=model.name,
        task=model.task,
        metric=model.metric,
        runtime=inspected.runtime,
        trust="pickle" if inspected.runtime == "pickle" else None,
        kind=inspected.kind,
        inputs=model.features.names,
        encoding=encoding,
        step=step,
        estimator=inspected.data,
        row_exact=runtime.row_exact,
        row_tolerance=0.0,
        golden=Golden(b"", b""),
        definitions=encode_features(model.features),
        recalibration=recalibration,
        classes=_classes(given, names) if names else msgspec.UNSET,
    )
    fitted = Fitted(
        model=model.name,
        recipe=bytes_hash(b"imported " + given.data),
        features=model.features.hash,
        artifact=artifact,
        data=b"",
        digest="",
        scorer=scorer_for(artifact),
        importance=None,
        cut_us=cut_us,
        positions={},
        rows=0,
        seed=0,
    )
    return fitted, inputs


def check_inputs(given: FoundModel, inspected: Inspected, model: Model) -> bool:
    """Check that a file's inputs are the model's features in the same order. Return whether the file names its inputs.

    Raises:
        Misuse: The inputs differ in number, names or order, or the file is an export of a model with other feature
            definitions or another kind of label. The message says what differs.
    """
    what, wanted = f"import {given.path.name}", model.features.names
    if given.exported is not None and given.exported["features"] != model.features.hash:
        raise Misuse(
            f"{what}: {given.exported['version']} was exported with feature definitions "
            f"{given.exported['features'][:12]}, but model {model.name!r} declares {model.features.hash[:12]}. Bring "
            "the old definitions back."
        )
    if given.exported is not None:
        _check_kind(what, given.exported, model)
    named = [names for names in (inspected.inputs, given.declared) if names and not all(map(_NO_NAME.fullmatch, names))]
    for names in named:
        missing = [name for name in wanted if _plain(name) not in set(map(_plain, names))]
        others = [name for name in names if _plain(name) not in set(map(_plain, wanted))]
        if missing or others:
            raise Misuse(
                f"{what}: its {len(names)} inputs are not the {len(wanted)} features of model {model.name!r}: "
                f"missing {', '.join(missing) or 'none'}; not declared {', '.join(others) or 'none'}."
            )
        pairs = zip(names, wanted, strict=False)
        place = next((n for n, (found, needed) in enumerate(pairs) if _plain(found) != _plain(needed)), None)
        if place is not None:
            raise Misuse(
                f"{what}: its input {place + 1} is {names[place]!r}, the feature there is {wanted[place]!r}. Declare "
                f"the features in the order {', '.join(names)}."
            )
    if inspected.count is not None and inspected.count != len(wanted):
        raise Misuse(
            f"{what}: it reads {inspected.count} inputs, but model {model.name!r} declares {len(wanted)} features: "
            f"{', '.join(wanted)}."
        )
    return bool(named) or given.exported is not None


def _check_kind(what: str, exported: dict[str, Any], model: Model) -> None:
    """Refuse an export of a model that predicts another kind of label."""
    task, metric = exported.get("task", model.task), exported.get("metric", model.metric)
    if task != model.task:
        raise Misuse(
            f"{what}: {exported['version']} predicts another kind of label ({task}, metric {metric}) than model "
            f"{model.name!r} ({model.task}, {model.metric}). Import it for a model with that kind of label."
        )
    classes = exported.get("classes")
    if classes and tuple(classes["names"]) != model.label.class_names:
        raise Misuse(
            f"{what}: {exported['version']} predicts the classes {', '.join(classes['names'])}, but model "
            f"{model.name!r} declares {', '.join(model.label.class_names)}. Declare these classes in the same "
            "order as the version."
        )


def _classes(given: FoundModel, names: tuple[str, ...]) -> Classes:
    """Return the classes that a model knows.

    An exported version may have been fitted on only some of the declared classes. Any other file is assumed to know all
    of them.
    """
    exported = None if given.exported is None else given.exported.get("classes")
    if exported is not None:
        return msgspec.convert(exported, Classes)
    return Classes(names=names, fitted=tuple(range(len(names))), rows=0)


def save_no_set(model: Model, blob: Blob) -> str:
    """Store an empty training-set manifest for an imported version, and return its hash."""
    manifest = Manifest(
        model=model.name,
        request=model.request.hash,
        features=model.features.hash,
        label=model.label.hash,
        cut_us=0,
        wait_us=model.label.wait_us,
        positions={},
        rows=0,
        usable=0,
        by_state={},
        by_reason={},
        data_hash="",
        origins={"imported": 0},
    )
    return blob.put(msgspec.json.encode(manifest, order="deterministic"))


def provenance(given: FoundModel, *, named: bool, golden: str, window_us: int | None) -> Imported:
    """Return the source of an imported version, as its version record stores it."""
    return Imported(
        file=given.path.name,
        sha256=bytes_hash(given.data),
        kind=given.kind,
        inputs_named=named,
        golden=golden,
        window_us=window_us,
    )


def check_same(version: Version, what: str, *, seen_until_us: int | None, window_us: int | None) -> None:
    """Refuse to import a file a second time with other options. Only options that are given are compared.

    Raises:
        Conflict: An option differs; the message names the option and says what to do.
    """
    imported, other = version.imported, []
    assert imported is not None  # the caller has found an imported version by the hash of its file
    if seen_until_us is not None and seen_until_us != version.cut_us:
        then, now = format_time(version.cut_us)[:19], format_time(seen_until_us)[:19]
        other.append(f"its training cut is {then}, not {now} (to set another: trimtab promote --seen-until)")
    if window_us is not None and version.evaluation is None:
        other.append("it was not scored on a window (trimtab versions compare scores it, next to another version)")
    elif window_us is not None and imported.window_us not in (None, window_us):
        scored = format_duration(imported.window_us or 0)
        other.append(
            f"it was scored on {scored}, not {format_duration(window_us)} (trimtab versions compare scores it again)"
        )
    if other:
        made = format_time(version.made_at_us)[:19]
        raise Conflict(
            f"{what}: the same content was imported already, as {version.name} at {made}, and a version cannot be "
            f"changed: {'; '.join(other)}. Leave the option out to use {version.name}."
        )


def _exported(file: Path) -> dict[str, Any] | None:
    """Return the contents of model.json; None if trimtab did not write it. (XGBoost's own files may have this name.)"""
    if not file.is_file():
        return None
    try:
        about = standalone.read_document(file)
    except standalone.ModelError as error:
        raise Misuse(f"import: {error}") from error
    if not about.keys() >= {"runtime", "file", "sha256", "features"}:
        return None
    if about.get("format") != standalone.FORMAT:
        raise Misuse(f"import: {file} has format {about.get('format')}; needed {standalone.FORMAT}. Upgrade trimtab.")
    return about


def _read(
    path: Path,
    file: Path,
    name: str,
    kind: str,
    *,
    declared: tuple[str, ...] = (),
    exported: dict[str, Any] | None = None,
) -> FoundModel:
    try:
        data = regular_file(file, f"import {path.name}:").read_bytes()
    except OSError as error:
        raise Unavailable(f"import {path.name}: {file} cannot be read: {error}") from error
    if exported is not None and bytes_hash(data) != exported["sha256"]:
        raise Corrupt(
            f"import {path.name}: {file.name} is not what was exported (its SHA-256 differs). Export it again."
        )
    return FoundModel(path=path, format=name, data=data, kind=kind, declared=declared, exported=exported)


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)  # LightGBM replaces characters such as spaces in names


def _encoding(
    what: str, given: FoundModel, model: Model, categories: Mapping[str, Sequence[str]] | None
) -> tuple[Encoding, Standardize | None, Recalibration | None]:
    about = given.exported
    if about is not None:
        known = {one["name"]: tuple(one["values"]) for one in about["inputs"] if one["type"] == "category"}
        step = None if about["step"] is None else msgspec.convert(about["step"], Standardize)
        calibration = about["calibration"]
        return (
            Encoding(dtypes=model.features.dtypes, vocabularies=known),
            step,
            None if calibration is None else msgspec.convert(calibration, Recalibration),
        )
    vocabularies = {name: tuple(values) for name, values in (categories or {}).items()}
    missing = [name for name in model.features.categories if name not in vocabularies]
    strange = [name for name in vocabularies if name not in model.features.categories]
    if strange:
        raise Misuse(f"{what}: categories for {', '.join(strange)}, but the model declares no such category features.")
    if missing:
        raise Misuse(
            f"{what}: needed the values of {', '.join(missing)}, in the order in which the model numbers them: "
            f'--category {missing[0]}=A,B or categories={{"{missing[0]}": ["A", "B"]}}.'
        )
    return Encoding(dtypes=model.features.dtypes, vocabularies=vocabularies), None, None
