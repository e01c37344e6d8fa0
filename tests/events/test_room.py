import subprocess
import sys

import pytest

import trimtab.events


@pytest.mark.fast
def test_every_public_name_is_there_and_no_other_is() -> None:
    assert all(getattr(trimtab.events, name) is not None for name in trimtab.events.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trimtab.events.nothing


def test_the_room_loads_nothing_heavy_until_it_is_used() -> None:
    code = "import sys, trimtab.events; print(sorted({'numpy', 'duckdb', 'deltalake'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_pushing_and_reading_loads_no_duckdb() -> None:
    code = "import sys; from trimtab.events import History, Ingestor; print('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
