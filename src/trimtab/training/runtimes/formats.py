"""Operations on stored models besides scoring: export, import, contributions, parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

ExportedScorer: TypeAlias = "Callable[[bytes, list[str]], Callable[[Any], Any]]"


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A foreign model file to inspect."""

    format: str
    data: bytes
    probability: bool  # whether the model must give probabilities
    names: tuple[str, ...]  # the features of the declared model


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """The model found in a foreign file."""

    runtime: str
    data: bytes  # the model as the runtime stores it
    kind: str
    inputs: tuple[str, ...] = ()  # empty: the file does not name its inputs
    count: int | None = None  # None: the file does not state the number of its inputs
    accepts_null: bool = True


class ExportedCode(msgspec.Struct, frozen=True):
    """The code that scores an exported model file; its text is copied into the exported folder.

    The code may use NumPy as `np`, the model's library, and what `needs` and `constants` list. It may use nothing else
    of trimtab.
    """

    scorer: ExportedScorer  # takes the file's bytes and the inputs' names, and returns a function of a matrix
    needs: tuple[Callable[..., Any], ...] = ()  # the functions of trimtab that the scorer calls
    constants: dict[str, object] = {}  # safe as a default, because msgspec copies defaults

    def text(self) -> str:
        """Return the Python source of the constants and functions; the last function is `score_exported`."""
        constants = "".join(f"{name} = {value!r}\n" for name, value in self.constants.items())
        parts = [inspect.getsource(function) for function in (*self.needs, self.scorer)]
        return "\n\n".join([constants, *parts])


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """The operations on a runtime's stored bytes. An operation that the runtime does not have is None."""

    export_file: str | None = None  # the model file's name in an exported folder
    exported: ExportedCode | None = None
    native: Callable[[bytes], bytes] = lambda data: data  # the stored bytes as the library's own file
    requirements_note: str | None = None  # a comment for the export's requirements.txt
    # The body of the library's own MLflow flavour, from the file's name, the estimator's class and package versions.
    flavor: Callable[[str, str, Mapping[str, str]], dict[str, Any]] | None = None
    # Fitted parameters by name, as text.
    parameters: Callable[[bytes], dict[str, str]] | None = None
    # SHAP values, (rows, inputs + 1) with the base last, and raw scores; with several classes one more axis. The last
    # argument says whether each input has mean 0 over the training rows. None: this estimator has no contributions.
    contributions: Callable[[bytes, NDArray[Any], bool], tuple[NDArray[Any], NDArray[Any]] | None] | None = None
    # Read a foreign file. A child process does this, because damaged bytes can end the process.
    inspect: Callable[[ModelFile], Inspected] | None = None
