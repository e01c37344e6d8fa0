"""An answer in process is by the version and the events of this moment, and asks nobody when nothing was written."""

from __future__ import annotations

from pathlib import Path

import alias_moves
import pytest
import shop

from trimtab.app.online.views import Views


def test_a_version_and_events_of_another_process_are_in_the_next_answer(trained: Path) -> None:
    with shop.opened(trained) as project, shop.opened(trained) as other:
        first = project.predict("buyer", [shop.visit("one", shop.NOW_US)])[0]
        assert project.predict("buyer", [shop.visit("two", shop.NOW_US)])[0].score == first.score
        source = other.sources[0]
        assert source.name == "readings"
        other.push("readings", [{"site": "north", "level": 1e6, "read_at": shop.NOW_US - 1}])
        after = project.predict("buyer", [shop.visit("three", shop.NOW_US)])[0]
        assert project.predictions.find(after.id).values != project.predictions.find(first.id).values
        alias_moves.promote(other, "buyer@1")
        assert first.version == "buyer@2"
        assert project.predict("buyer", [shop.visit("four", shop.NOW_US)])[0].version == "buyer@1"


def test_nobody_looks_when_nothing_was_written(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    real = Views.catch_up
    monkeypatch.setattr(Views, "catch_up", lambda self, **how: looked.append(1) or real(self, **how))
    with shop.opened(trained) as project:
        for n in range(3):
            project.predict("buyer", [shop.visit(f"before-{n}", shop.NOW_US)])
        looked.clear()
        for n in range(20):
            project.predict("buyer", [shop.visit(f"v-{n}", shop.NOW_US)])
        assert looked == []
        project.push("readings", [{"site": "north", "level": 2.0, "read_at": shop.NOW_US - 1}])
        project.predict("buyer", [shop.visit("after", shop.NOW_US)])
        assert looked
