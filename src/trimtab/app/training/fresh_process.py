"""Check that a version can be loaded in a new process, as a service must do after a restart.

For safety, versions whose artifact runs code when it is loaded are inspected in a new process. # D53
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing
from pathlib import Path

import msgspec

from trimtab.app.features.project_spec import ProjectSpec, child
from trimtab.app.system import System
from trimtab.core.config import Config
from trimtab.core.errors import TrimtabError
from trimtab.registry import LoadedModel, Version
from trimtab.run import Cancelled, Task, TaskFailed, Workplace

_logger = logging.getLogger(__name__)
_LONGEST_S = 60.0  # the time limit for an inspected version's code
_TRIED = 200  # the fastest way to score one row is found by scoring this many rows


class LoadArguments(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments for the new process."""

    version: str
    project: ProjectSpec
    chooses: bool = True  # whether to choose the fastest way to score one row, too


def loads_in_new_process(config: Config, state: Path, version: Version) -> str | None:
    """Return why a new process cannot load a version; None if it can.

    The process must also reproduce the version's stored predictions for its golden rows. It also chooses the fastest
    way to score one row, which is logged and shown in the training run.
    """
    try:
        chosen = _load_in_child(config, state, version, chooses=True, longest_s=math.inf)
        if chosen:
            _logger.info("%s: one row takes %s", version.name, chosen.decode())
    except (TrimtabError, TaskFailed) as error:
        return f"A new process could not load it: {error}"
    return None


def failure_to_load(config: Config, state: Path, version: Version) -> str | None:
    """Return why a new process cannot load a version whose artifact runs code; None if it can.

    Nothing is stored, and the code may run for one minute.
    """
    try:
        _load_in_child(config, state, version, chooses=False, longest_s=_LONGEST_S)
    except Cancelled:
        return f"version {version.name}: it was not loaded within {_LONGEST_S:.0f} s."
    except (TrimtabError, TaskFailed) as error:
        return str(error)
    return None


def _load_in_child(config: Config, state: Path, version: Version, *, chooses: bool, longest_s: float) -> bytes:
    arguments = LoadArguments(version=version.id, project=ProjectSpec.of(config, state), chooses=chooses)
    end_s = time.monotonic() + longest_s
    with closing(child(config.training)) as process:
        return process.run(
            Task(f"{__name__}:load", msgspec.msgpack.encode(arguments)),
            on_event=lambda event: None,
            cancelled=lambda: "it takes too long" if time.monotonic() > end_s else None,
        )


def load(argument: bytes, place: Workplace) -> bytes:
    """Load a version in a project that is opened for this. If requested, choose its fastest way to score one row.

    Returns:
        What was chosen, for people; empty if nothing was chosen.
    """
    arguments = msgspec.msgpack.decode(argument, type=LoadArguments)
    with arguments.project.open() as system:
        loaded = system.registry.load(system.registry.get(arguments.version))
        if loaded.row_call is None or not arguments.chooses:
            return b""
        found = system.registry.choose_row_call(loaded, _newest_rows(system, loaded))
    return b"" if found is None else found.text.encode()


def _newest_rows(system: System, loaded: LoadedModel) -> list[list[float]]:
    """Return the newest rows on which the version was trained or evaluated; none if they are lost."""
    import numpy as np

    from trimtab.training.data.sets import load_training_set

    version = loaded.version
    try:
        key = loaded.features().request.key
        rows = load_training_set(version.training_set, system.state.blob, key=key)
        newest = np.flatnonzero(rows.usable)[-_TRIED:]
        found: list[list[float]] = loaded.encoding.matrix(rows.features.values.take(newest)).tolist()
    except TrimtabError:  # without them, the golden rows are used
        return []
    return found
