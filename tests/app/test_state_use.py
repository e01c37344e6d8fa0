"""A folder that is had together or alone, whatever stands under its name meanwhile."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trimtab.app.state.state_use import FolderHold, have_alone, set_aside, use
from trimtab.core.errors import Conflict, Unavailable


@pytest.mark.fast
def test_many_have_a_folder_together_and_one_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first, second = use(folder), use(folder)
    assert first is not None
    assert second is not None
    with pytest.raises(Conflict, match="has a project open"):
        have_alone(folder)
    first.release()
    first.release()  # nothing happens the second time
    with pytest.raises(Conflict, match="has a project open"):
        have_alone(folder)
    del second  # nobody knows it any more
    hold, made = have_alone(folder)
    assert not made
    for other in (use, have_alone):
        with pytest.raises(Conflict):
            other(folder)
    hold.release()
    assert use(folder) is not None


def test_who_is_alone_makes_the_folder_so_that_others_meet_it(tmp_path: Path) -> None:
    hold, made = have_alone(tmp_path / "deep" / "state")
    assert made
    with pytest.raises(Conflict, match="a backup is being restored there"):
        use(tmp_path / "deep" / "state")
    hold.release()


def test_a_folder_that_was_swapped_while_it_was_opened_is_not_the_one_that_is_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, gone, opened = tmp_path / "state", tmp_path / "gone", os.open
    folder.mkdir()

    def swap(path: Path, *more: Any) -> int:
        fd = opened(path, *more)
        if not gone.exists():
            folder.rename(gone)
            folder.mkdir()
        return fd

    monkeypatch.setattr(os, "open", swap)
    hold = FolderHold.take(folder, alone=True)
    assert hold is not None
    assert hold.is_of(folder)
    assert FolderHold.take(folder, alone=False) is None
    assert FolderHold.take(gone, alone=True) is not None  # what was opened first is let go


def test_nobody_begins_a_state_in_the_moment_between_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = tmp_path / "state", Path.mkdir
    folder.mkdir()
    (folder / "format.json").write_text("{}")
    hold, _ = have_alone(folder)
    folder.rename(set_aside(folder))  # the first rename
    with pytest.raises(Conflict, match="a backup is being restored there"):
        use(folder)
    set_aside(folder).rename(folder)

    def late(self: Path, *more: Any, **options: Any) -> None:
        """The first rename comes after it was seen that nothing is set aside."""
        made(self, *more, **options)
        (tmp_path / "other").rename(set_aside(folder))

    hold.release()
    folder.rename(tmp_path / "other")
    monkeypatch.setattr(Path, "mkdir", lambda self, *a, **k: (late if self == folder else made)(self, *a, **k))
    with pytest.raises(Conflict, match="the previous state is in"):
        use(folder)
    assert not folder.exists()  # or it could not be put back by hand


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[None]:
    """While a forked child lives on that did this first."""
    (said, say), (told, tell) = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside native threads
        child = os.fork()
    if child == 0:
        try:
            os.close(tell)
            work()
            os.write(say, b".")
            os.read(told, 1)
        finally:
            os._exit(0)
    os.close(say)
    try:
        assert os.read(said, 1) == b"."
        yield
    finally:
        os.close(tell)
        os.waitpid(child, 0)
        os.close(said)
        os.close(told)


def test_a_forked_child_does_not_keep_a_folder_when_its_parent_lets_it_go(tmp_path: Path) -> None:
    hold = use(tmp_path / "state")
    assert hold is not None
    with forked(lambda: None):  # a pool of a notebook
        hold.release()
        alone, _ = have_alone(tmp_path / "state")
        alone.release()


def test_a_forked_child_does_not_let_go_what_its_parent_has(tmp_path: Path) -> None:
    hold = use(tmp_path / "state")
    assert hold is not None
    with forked(hold.release), pytest.raises(Conflict, match="has a project open there"):
        have_alone(tmp_path / "state")


def test_a_copy_that_nobody_closes_keeps_no_folder(tmp_path: Path) -> None:
    hold = use(tmp_path / "state")
    assert hold is not None
    copy = os.dup(hold._fd)  # as of a process that a library forked by itself
    hold.release()
    alone, _ = have_alone(tmp_path / "state")
    alone.release()
    os.close(copy)


def test_a_link_is_looked_through(tmp_path: Path) -> None:
    link, folder = tmp_path / "link", tmp_path / "far" / "state"
    link.symlink_to(folder)
    hold = use(link)  # which makes the folder
    assert hold is not None
    assert hold.is_of(folder)
    hold.release()
    assert set_aside(link) == set_aside(folder)
    folder.rename(set_aside(folder))
    with pytest.raises(Conflict, match=f"mv '{set_aside(folder)}' '{folder}'"):
        use(link)


def test_what_cannot_be_had_is_left_to_who_reads_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert use(tmp_path / "file") is None
    assert use(tmp_path / "file" / "below") is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *more: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(Unavailable, match=r"state: cannot be made \(.*Permission denied"):
        use(tmp_path / "state")
