"""Public names are listed once, and are loaded at their first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trimtab
import trimtab.features
from trimtab.features import aggregates

pytestmark = pytest.mark.fast


def test_a_function_that_declares_an_aggregate_is_public_everywhere_once_it_is_listed_in_its_own_file() -> None:
    assert set(aggregates.__all__) <= set(trimtab.__all__) & set(trimtab.features.__all__)
    assert all(getattr(trimtab, name) is getattr(aggregates, name) for name in aggregates.__all__)


def test_a_name_that_is_not_listed_is_refused() -> None:
    with pytest.raises(AttributeError, match="'trimtab' has no attribute 'duration_us'"):
        _ = trimtab.duration_us  # type: ignore[attr-defined]  # imported by `aggregates`, but not public


def test_a_star_import_gives_every_public_name_and_a_room_is_imported_without_the_public_names() -> None:
    code = (
        "import sys\nfrom trimtab import store\nassert 'trimtab.features.aggregates' not in sys.modules\n"
        "import trimtab\nfrom trimtab import *\nassert set(trimtab.__all__) <= set(globals())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_listing_of_a_package_and_of_a_project_has_the_public_names_and_nothing_else() -> None:
    assert dir(trimtab) == trimtab.__all__
    assert dir(trimtab.features) == trimtab.features.__all__
    project = dir(object.__new__(trimtab.Project))  # needs no open project
    assert {"predict", "label", "train", "status", "registry", "close"} <= set(project)
    assert {name for name in project if not hasattr(trimtab.Project, name)} == {"clock", "config"}  # attributes
    assert not {"part", "live", "layouts", "version_memory", "make_room", "reopen"} & set(project)
