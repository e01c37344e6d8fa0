"""What is written durably takes the place of a file, and of nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from trimtab.core.errors import Misuse
from trimtab.store.durable_files import write_durably


def test_a_file_is_replaced_and_what_is_no_file_stays(tmp_path: Path) -> None:
    file, pipe = tmp_path / "a", tmp_path / "pipe"
    write_durably(file, b"one")
    write_durably(file, b"two")
    assert file.read_bytes() == b"two"
    os.mkfifo(pipe)  # as root, a file would take the place of /dev/null as well
    with pytest.raises(Misuse, match="found a named pipe, needed the name of a new file"):
        write_durably(pipe, b"three")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "pipe"]
