"""A version in service whose library is not installed here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import shop


def test_the_status_names_the_library_that_is_not_here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skops", None)
    with shop.opened(trained) as project:
        red = [line for line in project.status().red if line.startswith("buyer: ") and "cannot answer" in line]
    assert len(red) == 1
    assert "buyer@2 cannot answer: library skops: it is not installed. Install the package" in red[0]
    assert red[0].endswith("that provides 'skops' with pip. Or run: trimtab train buyer")
