from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import trimtab.registry
import trimtab.run
import trimtab.training


@pytest.mark.fast
def test_definitions_are_had_without_the_heavy_libraries() -> None:
    code = (
        "import sys\nimport trimtab.registry, trimtab.run, trimtab.training\n"
        "from trimtab.training import Model, model\nfrom trimtab.registry import Version\n"
        "print([n for n in ('numpy', 'sklearn', 'lightgbm', 'scipy', 'duckdb', 'sqlalchemy') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.fast
@pytest.mark.parametrize("room", [trimtab.training, trimtab.registry, trimtab.run])
def test_every_public_name_of_the_room_is_there_and_nothing_else(room: ModuleType) -> None:
    names = room.__all__
    assert all(getattr(room, name) is not None for name in names)
    assert sorted(names) == names
    with pytest.raises(AttributeError):
        room.nothing_of_this_name  # noqa: B018 (reading it is the test)
