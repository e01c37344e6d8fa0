"""Experiments over HTTP: assignment, exposure, rights, and services that follow a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import shop

from processes import eventually
from trimtab.app.project import Project, open_project
from trimtab.core.errors import Misuse, NotFound
from trimtab.experiments.exposures import decode
from trimtab.serving.client import Client, connect

PROJECT = """
import trimtab as tt

tt.experiment("checkout", unit="customer_id", variants={"control": "blue", "green": {"hex": "#0f0"}},
    where=tt.col("country") == "DE", attributes={"country": str})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT)
    return tmp_path


def opened(folder: Path) -> Project:
    return open_project(folder, environment={})


def unit(n: int, country: str | None = "DE") -> dict[str, Any]:
    return {"customer_id": f"customer-{n}", "country": country}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_assigns_follows_a_change_and_logs_exposures(folder: Path, workers: int) -> None:
    with opened(folder) as project, shop.serving(folder, "--workers", str(workers)) as (_, url), connect(url) as client:
        address = f"{url}/v1/experiments/checkout/assign"
        assert shop.call(address, {"attributes": unit(1)}) == (
            200,
            {
                "experiment": "checkout",
                "variant": "control",
                "value": "blue",
                "takes_part": False,
                "reason": "not started",
            },
        )
        project.start_experiment("checkout", why="Green sells more.")

        def all_started() -> bool:
            found = [client.assign("checkout", unit(n)).reason for n in range(8)]
            return all(reason == "assigned" for reason in found)

        eventually(all_started)
        for n in range(40):
            assert client.assign("checkout", unit(n)) == project.assign("checkout", unit(n))
        green = next(n for n in range(40) if project.assign("checkout", unit(n)).variant == "green")
        status, body = shop.call(address, {"attributes": unit(green), "expose": True})
        assert (status, body["value"], body["takes_part"]) == (200, {"hex": "#0f0"}, True)
        client.assign("checkout", unit(green, country="FR"), expose=True)
        client.assign("checkout", unit(green), expose=True, not_shown="timeout")
        customer = f"customer-{green}"
        logged = [(customer, "green", ""), (customer, "", "not eligible"), (customer, "green", "timeout")]
        assert exposures(project) == logged
        many(project, client, url)
        shown = shop.call(f"{url}/v1/experiments/checkout")[1]
        assert (shown["phase"], shown["weights"]) == ("running", {"control": 0.5, "green": 0.5})
        assert [one.name for one in client.experiments()] == ["checkout"]
        refused(client, url)
        project.pause_experiment("checkout", why="A fault.")
        eventually(lambda: all(client.assign("checkout", unit(n)).reason == "paused" for n in range(8)))


def exposures(project: Project) -> list[tuple[str, str, str]]:
    log = project.state.exposures
    records = [record for partition in sorted(log.positions()) for record in log.read(partition, 0)]
    logged = [decode(record) for record in sorted(records, key=lambda record: record.appended_at_us)]
    return [(one.unit, one.variant, one.reason) for one in logged]


def many(project: Project, client: Client, url: str) -> None:
    """Many units in one call: those that take part are logged, and all or none."""
    before = len(exposures(project))
    units = [*(unit(n) for n in range(100, 140)), unit(140, country="FR"), unit(100)]
    found = client.expose("checkout", units, not_shown="error")
    assert found == [project.assign("checkout", one) for one in units]
    wanted = [(f"customer-{n}", found[n - 100].variant, "error") for n in (*range(100, 140), 100)]
    assert sorted(exposures(project)[before:]) == sorted(wanted)
    with pytest.raises(Misuse, match=r"units\[2\]: experiment 'checkout': 'customer_id' is 1.5"):
        client.expose("checkout", [unit(1), unit(2), {**unit(3), "customer_id": 1.5}])
    with pytest.raises(Misuse, match=r"units\[0\]"):
        project.expose_units("checkout", ["customer-1", unit(1)])
    assert client.expose("checkout", []) == []
    (early,) = client.expose("checkout", [unit(1)], at="2020-01-01T00:00:00Z")
    assert (early.reason, early.takes_part) == ("not started", False)
    with pytest.raises(Misuse, match="2 times for 1 units"):
        client.expose("checkout", [unit(1)], at=[0, 1])
    status, problem = shop.call(f"{url}/v1/experiments/checkout/expose", {"units": unit(1)})
    assert (status, "units" in problem["detail"]) == (422, True)
    assert len(exposures(project)) == before + 41
    assert project.expose_units("checkout", [unit(7)]) == [project.assign("checkout", unit(7))]


def refused(client: Client, url: str) -> None:
    with pytest.raises(NotFound, match="no experiment 'colour'"):
        client.assign("colour", unit(1))
    with pytest.raises(Misuse, match=r"the attribute 'country' \(str\) is missing"):
        client.assign("checkout", "customer-1")
    address = f"{url}/v1/experiments/checkout/assign"
    for body, field in (({}, "attributes"), ({"attributes": unit(1), "exposed": True}, "exposed")):
        status, problem = shop.call(address, body)
        assert (status, field in problem["detail"]) == (422, True)
    assert shop.call(address)[0] == 405


def test_assignment_needs_the_right_to_predict_and_the_list_the_right_to_read(folder: Path) -> None:
    with opened(folder) as project:
        read, predict = (project.keys.add(role, [role]) for role in ("read", "predict"))
        with shop.serving(folder) as (_, url):
            with connect(url, key=predict) as client:
                assert client.assign("checkout", unit(1)).variant == "control"
            with connect(url, key=read) as client:
                assert client.experiments()[0].phase == "not started"
                with pytest.raises(Exception, match="predict"):
                    client.assign("checkout", unit(1))
