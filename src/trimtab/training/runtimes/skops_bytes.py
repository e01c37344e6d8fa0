"""Store fitted scikit-learn estimators as bytes that run no code when loaded. Equal estimators give equal bytes."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import msgspec
import skops.io

from trimtab.core.errors import Corrupt, Misuse

# Types in scikit-learn's own estimators that skops does not trust by itself. All are plain containers of numbers, and
# none runs code when it is loaded. Never add a type only because a file contains it.
ALLOWED = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can contain


def dumps(fitted: Any, *, also: tuple[str, ...] = ()) -> bytes:
    """Return a fitted estimator as bytes in the skops format.

    Args:
        also: Types whose names begin with one of these are allowed, too.

    Raises:
        Misuse: The estimator contains a type that is not allowed.
    """
    try:
        data = skops.io.dumps(fitted)
        strange = [name for name in skops.io.get_untrusted_types(data=data) if not _is_allowed(name, also)]
    except Exception as error:  # a type of the user's may raise any exception while it is stored
        raise _refused(fitted, f"{type(error).__name__}: {error}") from error
    if strange:
        raise _refused(fitted, f"it holds {', '.join(sorted(strange))}")
    return _canonical(data)


def loads(data: bytes, *, also: tuple[str, ...] = ()) -> Any:
    """Load an estimator from its bytes.

    Raises:
        Corrupt: The bytes are damaged, or contain a type that is not allowed.
    """
    try:
        trusted = [name for name in skops.io.get_untrusted_types(data=data) if _is_allowed(name, also)] if also else []
        return skops.io.loads(data, trusted=[*ALLOWED, *trusted])
    # the format is a zip file of JSON and NumPy files, so damaged bytes can raise many kinds of errors
    except Exception as error:
        raise Corrupt(f"skops: these {len(data)} bytes are not a trusted estimator: {error}") from error


def _is_allowed(name: str, also: tuple[str, ...]) -> bool:
    return name in ALLOWED or (bool(also) and name.startswith(also))


def _refused(fitted: Any, why: str) -> Misuse:
    return Misuse(
        f"estimator {type(fitted).__module__}.{type(fitted).__qualname__}: skops cannot store it safely: {why}. "
        'Use the library\'s own parts, or give trust="pickle": then loading the model runs code.'
    )


def _canonical(data: bytes) -> bytes:
    """Make archives of equal estimators equal: remove times, and memory addresses in names and references."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = msgspec.json.decode(archive.read("schema.json"))
        addresses: dict[int, int] = {}
        files: dict[str, str] = {}
        _rename(schema, addresses, files)
        parts = {new: archive.read(old) for old, new in files.items()}
    parts["schema.json"] = msgspec.json.encode(schema)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), part)
    return out.getvalue()


def _rename(node: Any, addresses: dict[int, int], files: dict[str, str]) -> None:
    """Replace memory addresses and file names by numbers, in the order in which they appear.

    Each plain value gets a number of its own, because equal values may or may not be the same object in Python.
    """
    if isinstance(node, list):
        for part in node:
            _rename(part, addresses, files)
    elif isinstance(node, dict):
        address = node.get("__id__")
        if isinstance(address, int):
            plain = bool(node.get("is_json"))
            number = len(addresses) if plain else addresses.setdefault(address, len(addresses))
            if plain:
                # mark the number as used, under a key that is no address (addresses are not negative)
                addresses[-1 - len(addresses)] = number
            node["__id__"] = number
        file = node.get("file")
        if isinstance(file, str):
            node["file"] = files.setdefault(file, f"{len(files)}.{file.rpartition('.')[2]}")
        for name, part in node.items():
            if name not in ("__id__", "file"):
                _rename(part, addresses, files)
