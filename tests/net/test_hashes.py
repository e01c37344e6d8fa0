"""Content addresses of definitions, and what the catalogue keeps of them once they are applied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from opened import copied, opened
from snapshots import check

import trimtab as tt
from trimtab.core.hashing import bytes_hash

pytestmark = pytest.mark.fast
KEPT = ("definition", "definition_version", "applied_features")  # kinds of the catalogue's records


def declared(project: tt.Project) -> Iterator[tuple[str, str]]:
    """What each definition is called, and its address."""
    found = project.definitions
    for kind in ("sources", "entities", "requests", "views", "models", "deployments"):
        for name, one in getattr(found, kind).items():
            yield f"{kind} {name}", one.hash
    for view in found.views.values():
        for name, aggregate in view.features.items():
            alone = msgspec.structs.replace(view, features={name: aggregate})
            yield f"views {view.name} with {name} alone", alone.hash
    for model in found.models.values():
        yield f"models {model.name} features", model.features.hash
        yield f"models {model.name} label", model.label.hash
        if model.search is not None:
            yield f"models {model.name} search", model.search.hash
        for join in model.features.joins:
            yield f"models {model.name} join {join.name}", join.hash
        for name, expression in model.features.transforms.items():
            yield f"models {model.name} expression {name}", expression.hash
    for deployment in found.deployments.values():
        if deployment.degrade is not None:
            yield f"deployments {deployment.model.name} degrade", deployment.degrade.hash


def applied(project: tt.Project) -> Iterator[tuple[str, str]]:
    """Hashes of the records that applying the definitions writes."""
    project.apply()
    assert project.plan().is_empty
    for kind in KEPT:
        records = project.state.catalog.find(kind)
        assert records, kind
        for record in records:
            yield f"record {kind} {record.key}", bytes_hash(record.body)
    yield "ledger row 1", project.ledger()[0].hash


def current() -> str:
    """One line for each address."""
    with TemporaryDirectory() as folder, opened(copied(Path(folder))) as project:
        lines = [f"{name}: {digest}" for name, digest in (*declared(project), *applied(project))]
    assert len({line.partition(":")[0] for line in lines}) == len(lines)
    return "\n".join(sorted(lines)) + "\n"


def test_the_address_of_every_definition_is_as_before() -> None:
    check("hashes", current())
