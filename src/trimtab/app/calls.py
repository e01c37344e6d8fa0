"""Wrap public methods, so that they show progress and shorten the tracebacks of errors."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar, cast

from trimtab.core.errors import Misuse, TrimtabError
from trimtab.run import Run
from trimtab.run.progress_line import ProgressLine, can_update

_SHORT = "<trimtab>"  # the file that tracebacks name instead of trimtab's own frames
# the beginning of an exception note that holds the traceback of a child process
_REMOTE = "Traceback (most recent call last)"
_DOING = {
    "apply": "filling views",
    "ingest": "ingesting",
    "join": "joining features",
    "label_table": "taking labels",
    "predict_frame": "predicting",
    "predict_table": "predicting",
    "promote": "judging",
    "rebuild": "rebuilding a view",
    "rebuild_all": "rebuilding views",
    "search": "searching parameters",
    "simulate": "replaying",
    "snapshot": "computing features",
    "snapshots": "computing features",
    "train": "training",
}
_TEXTS = ("actor", "why")  # arguments that are stored: a record with a value of another type could not be read again
Kind = TypeVar("Kind", bound=type)
Function = TypeVar("Function", bound=Callable[..., Any])


class PublicNames(type):
    """The type of classes for which `dir` only lists public names, for completion in notebooks.

    Each class in the hierarchy adds the names in its `_public` or, if it has none, all its names that do not begin
    with an underscore.
    """

    def __dir__(cls) -> list[str]:
        names: set[str] = set()
        for kind in cls.__mro__:
            if isinstance(kind, PublicNames):
                names.update(vars(kind).get("_public", [name for name in vars(kind) if not name.startswith("_")]))
        return sorted(names)


def public_calls(kind: Kind) -> Kind:
    """Apply `public_call` to each public method of a class, except inherited ones."""
    for name, value in list(vars(kind).items()):
        if isinstance(value, FunctionType) and not name.startswith("_"):
            setattr(kind, name, public_call(value))
    return kind


def public_call(function: Function) -> Function:
    """Return a function that shows its progress if it is slow, and that shortens the tracebacks of errors.

    The traceback of a `TrimtabError` has the caller's frames and one line for trimtab. Its cause (an error of another
    library or of the caller's own function) is shown once, with its whole traceback. Other errors are bugs of trimtab,
    so their tracebacks stay whole.
    """
    code = cast(FunctionType, function).__code__
    takes = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    doing = _DOING.get(function.__name__)
    about = next((name for name in ("progress", "watch") if doing and name in takes), None)
    texts = {name: takes.index(name) for name in _TEXTS if name in takes}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # IPython and pytest leave this frame out
        try:
            for name, place in texts.items():
                given = args[place] if place < len(args) else kwargs.get(name, "")
                if not isinstance(given, str):
                    raise Misuse(f"{function.__name__}: {name}={given!r:.100} is no text. Give a text.")
            if about is None or kwargs.get(about) is not None or not can_update():
                return function(*args, **kwargs)
            with ProgressLine(doing or "") as line:
                kwargs[about] = line if about == "progress" else _watch(line, doing or "")
                return function(*args, **kwargs)
        except TrimtabError as error:
            if sys.flags.dev_mode:
                raise
            failed, cause = _shortened(error)
        raise failed from cause

    own = cast(FunctionType, call)
    own.__code__ = own.__code__.replace(
        co_filename=_SHORT, co_name=function.__name__, co_qualname=function.__qualname__
    )
    return cast(Function, call)


def _shortened(error: TrimtabError) -> tuple[TrimtabError, BaseException | None]:
    """Return an error without its frames and child tracebacks, and its first cause that is no error of trimtab."""
    cause = error.__cause__
    while isinstance(cause, TrimtabError):  # the error's message contains that of this cause
        cause = cause.__cause__
    if cause is not None and cause.__cause__ is None:
        cause.__suppress_context__ = True  # hide the error that was being handled when the cause was raised
    notes = getattr(error, "__notes__", [])
    notes[:] = [note for note in notes if not note.startswith(_REMOTE)]
    return error.with_traceback(None), cause


def _watch(line: ProgressLine, doing: str) -> Callable[[Run], None]:
    def watch(run: Run) -> None:
        step = run.step
        line.say(
            f"{doing} {run.model}" + ("" if step is None else f", {step.name}"), None if step is None else step.progress
        )

    return watch
