"""Check a state folder for `trimtab doctor`: the formats of its stores, lost artifacts and lost records."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import get_args

import msgspec

from trimtab.core.clock import SystemClock
from trimtab.core.errors import Unavailable
from trimtab.store.embedded_files import Kind, check_file
from trimtab.store.lmdb.place import pairs_file


def check_state(folder: Path) -> str:
    """Return, as text, how many stores of each kind the state folder has.

    Raises:
        Misuse: A store has a format that this version of trimtab does not read. The message names the file.
        Corrupt: The beginning of a store is damaged.
        Unavailable: A file cannot be read.
    """
    from trimtab.app.state.state import REBUILD, RESTORE, check_format

    found: Counter[str] = Counter()
    try:
        check_format(folder)
        for path in sorted(folder.rglob("*")):
            if not (path.is_file() or path == pairs_file(path.parent)):
                continue
            kind = check_file(path, REBUILD if path.parent == folder / "online" else RESTORE)
            found.update([kind] if kind else [])
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}. Give this user access to the state folder.") from error
    return ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name in get_args(Kind) if (n := found[name])) or "empty"


class Contents(msgspec.Struct, frozen=True):
    """Problems in the contents of stores, each with its repair."""

    logs: list[tuple[str, str]] = []  # partitions with lost records, or with times in the future from a wrong clock
    artifacts: list[tuple[str, str]] = []  # missing or damaged artifacts of deployed versions
    champions: int = 0  # the number of deployed versions


def check_contents(folder: Path) -> Contents:
    """Look for lost records, records with times in the future, and lost artifacts."""
    from trimtab.app.features.clock_ahead import REPAIR, stamped_ahead
    from trimtab.app.state.lost_records import RECOVER, lost_records
    from trimtab.app.state.state import State
    from trimtab.app.state.state_use import FILE
    from trimtab.registry import Registry
    from trimtab.registry.loading import lost_artifact, repair_lost
    from trimtab.registry.protection import CHAMPION

    if not (folder / FILE).exists():
        return Contents()
    clock = SystemClock()
    with closing(State(folder, clock=clock)) as state:
        logs = [(str(lost), RECOVER) for lost in lost_records(state, tables=True)]
        logs += [(str(ahead), REPAIR) for ahead in stamped_ahead(state, clock.now_us())]
        registry = Registry(state.catalog, state.blob, clock=clock, actor="doctor")
        champions = [version for model in registry.models() if (version := registry.alias(model, CHAMPION))]
        artifacts = []
        for version in champions:
            if (lost := lost_artifact(state.blob, version)) is not None:
                imported = None if version.imported is None else version.imported.file
                artifacts.append(
                    (f"the artifact of {version.name}: {lost}", repair_lost(version.model, imported=imported))
                )
        return Contents(logs, artifacts, len(champions))
