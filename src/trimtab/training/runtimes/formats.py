"""Uses of a library's stored models besides scoring: export, import, SHAP values, parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

ExportedScorer: TypeAlias = "Callable[[bytes, list[str]], Callable[[Any], Any]]"


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model file from outside that is to be imported."""

    format: str
    data: bytes
    probability: bool  # whether it must predict probabilities
    names: tuple[str, ...]  # the features of the declared model


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """The model that was found in a model file."""

    runtime: str
    data: bytes  # the model in the form in which trimtab stores models of this library
    kind: str
    inputs: tuple[str, ...] = ()  # the names of its inputs; empty: the file does not contain them
    count: int | None = None  # the number of its inputs; None: not in the file
    accepts_null: bool = True


class ExportedCode(msgspec.Struct, frozen=True):
    """Code that scores an exported model file. Its text is copied into the exported folder.

    The code may use NumPy as `np`, the model's library, and what `needs` and `constants` list, but nothing else of
    trimtab.
    """

    # gets the bytes of the model file and the names of the inputs, and returns a function that scores a matrix
    scorer: ExportedScorer
    needs: tuple[Callable[..., Any], ...] = ()  # functions of trimtab that it calls
    constants: dict[str, object] = {}  # a dict is safe as a default here, because msgspec copies it

    def text(self) -> str:
        """Return the Python text of the constants and functions. The last function is `score_exported`."""
        constants = "".join(f"{name} = {value!r}\n" for name, value in self.constants.items())
        parts = [inspect.getsource(function) for function in (*self.needs, self.scorer)]
        return "\n\n".join([constants, *parts])


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """The uses of one library's stored models. A field is None if this use is not possible."""

    export_file: str | None = None  # the name of the model file in an exported folder
    exported: ExportedCode | None = None
    native: Callable[[bytes], bytes] = lambda data: data  # turns the stored bytes into the library's own file
    requirements_note: str | None = None  # a comment for the requirements.txt of an export
    # Returns MLflow's description of the library's own flavour, given the file's name, the estimator's class and
    # package versions.
    flavor: Callable[[str, str, Mapping[str, str]], dict[str, Any]] | None = None
    # Returns the fitted parameters as text, by name.
    parameters: Callable[[bytes], dict[str, str]] | None = None
    # Gets stored bytes, rows of inputs, and whether each input has the mean 0 over the training rows. Returns SHAP
    # values, shape (rows, inputs + 1) with the base value last, and raw scores, shape (rows,); for several classes
    # (rows, classes, inputs + 1) and (rows, classes). Returns None if this estimator has no SHAP values.
    contributions: Callable[[bytes, NDArray[Any], bool], tuple[NDArray[Any], NDArray[Any]] | None] | None = None
    # Reads a model file from outside. This runs in a child process, because damaged bytes can end the process.
    inspect: Callable[[ModelFile], Inspected] | None = None
