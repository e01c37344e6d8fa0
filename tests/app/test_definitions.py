"""A project file that does not come to its end: what it raised is said with its line, whatever it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.app.state.definitions import load_definitions
from trimtab.core.errors import Misuse


@pytest.mark.fast
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("sys.exit('no licence')", "SystemExit: no licence"),
        ("sys.pth", "AttributeError: module 'sys' has no attribute 'pth'. Did you mean 'path'?"),
        ("tt.reqest", "AttributeError: module 'trimtab' has no attribute 'reqest'. Did you mean 'request'?"),
        ("tt.col('a').fil_null(0)", "AttributeError: 'Expression' object has no attribute 'fil_null'. Did you mean"),
        ("carriers", "NameError: name 'carriers' is not defined. Did you mean 'carrier'?"),
        ("xyzzy", "NameError: name 'xyzzy' is not defined"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: invalid syntax"),
    ],
)
def test_a_project_file_that_exits_or_raises_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "project.py"
    file.write_text(f"import sys, trimtab as tt; carrier = 1\n{line}\n")
    with pytest.raises(Misuse) as found:
        load_definitions(file)
    assert str(found.value).startswith(f"{file}, line 2: {said}")
    assert ("Did you mean" in str(found.value)) == ("Did you mean" in said)


@pytest.mark.fast
@pytest.mark.parametrize(
    "body",
    [
        "__all__ = 7",
        "__all__ = [1, 2]",
        "def __dir__(self): raise RuntimeError('no list')",
        "@property\n    def __all__(self): raise SystemExit(3)",
    ],
)
def test_what_an_object_of_the_file_lists_badly_does_not_hide_where_the_file_raised(tmp_path: Path, body: str) -> None:
    file = tmp_path / "project.py"
    file.write_text(f"class Own:\n    {body}\n\nown = Own()\nown.nmae\n")
    line = len(file.read_text().splitlines())
    with pytest.raises(Misuse) as found:
        load_definitions(file)
    assert str(found.value) == f"{file}, line {line}: AttributeError: 'Own' object has no attribute 'nmae'"


@pytest.mark.fast
@pytest.mark.parametrize("joined", [False, True])
def test_a_view_over_requests_is_refused(tmp_path: Path, joined: bool) -> None:
    file = tmp_path / "project.py"
    text = """
import trimtab as tt

visit = tt.request("visit", key="id", time="at", columns={"id": str, "at": tt.Time, "site": str})
sold = tt.source("sold", key="id", time="at", columns={"id": str, "at": tt.Time, "yes": bool})
visits = tt.view("visits", source=visit.source, by="site", features={"n": tt.count(over="1d")})
"""
    if joined:
        text += 'model = tt.model("m", request=visit, features=[visits], label=tt.label(sold, key="id", value="yes", '
        text += 'wait="1d"), estimator=object, metric="log_loss")\ndel visits\n'
    file.write_text(text)
    with pytest.raises(Misuse, match=r"view 'visits' reads the request 'visit'. .* Declare a source with another name"):
        load_definitions(file)
