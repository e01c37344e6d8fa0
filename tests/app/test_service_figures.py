"""What versions do in service is in the catalogue, for whichever process asks: over HTTP, by workers, after kill -9."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
import shop
from alias_moves import AS_OF

from processes import eventually
from trimtab.app.project import Project
from trimtab.monitoring.breaches import breach
from trimtab.monitoring.guardrails import guardrails
from trimtab.serving.arms.arm_counts import ServiceMetrics
from trimtab.serving.arms.arm_metrics import service_metrics
from trimtab.serving.arms.arms import arm_shares

OWN = '''
import time
from pathlib import Path

import numpy as np


class Own:
    """Answers by the first input, until the file `fault` says otherwise of one of fewer training rows."""

    def fit(self, inputs, target):
        self.rows = len(target)
        return self

    def predict(self, inputs):
        scores = 1 / (1 + np.exp(-2 * inputs[:, 0]))
        fault = Path("fault").read_text().split() if Path("fault").exists() else None
        if fault is None or self.rows >= int(fault[1]):
            return scores
        if fault[0] == "raises":
            raise ValueError("a bug")
        if fault[0] == "sleeps":
            time.sleep(0.02)
        return np.full(len(scores), 0.3) if fault[0] == "constant" else scores
'''


@pytest.fixture(scope="module")
def own_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shop.write_project(tmp_path_factory.mktemp("own") / "trained")
    text = (folder / "project.py").read_text().replace('metric="log_loss")', 'metric="log_loss", trust="pickle")')
    text = text.replace('\nbuyer("buyer", batch)', '\nfrom faulty_own import Own\nbuyer("buyer", Own)')
    (folder / "project.py").write_text(text)
    (folder / "faulty_own.py").write_text(OWN)
    with shop.opened(folder) as project:
        shop.load(project)
        assert [decision.act for decision in project.train()][-1] == "promote"
        few, many = (project.registry.get(f"buyer@{n}").rows for n in (1, 2))
        assert few < many
        (folder / "many").write_text(str(many))
    sys.modules.pop("faulty_own", None)
    return folder


@pytest.fixture
def own(own_once: Path, tmp_path: Path) -> Path:
    """A project whose version in service is buyer@2; half of its sites go to buyer@1, the canary."""
    folder = Path(shutil.copytree(own_once, tmp_path / "project"))
    with shop.opened(folder) as project:
        project.set_arm("buyer@1", "canary", share=0.5, why="It is tried.", actor="Ada")
    return folder


def ask(url: str, count: int) -> int:
    """Ask for predictions, and return how many of them the canary answered."""
    by_canary = 0
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    chance = random.Random(count)
    for n in range(count):
        row = {**shop.visit(f"v{n}", shop.NOW_US, chance.gauss(0, 1), f"site-{chance.randrange(500)}"), "at": AS_OF}
        body = json.dumps({"request": row})
        connection.request("POST", "/v1/models/buyer/predict", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        by_canary += json.loads(answer)["arm"] == "canary"
    connection.close()
    return by_canary


def told(folder: Path) -> tuple[ServiceMetrics, ServiceMetrics]:
    """The figures of canary and champion, as a process reads them that does not serve."""
    with shop.opened(folder) as project:
        return figures_of(project, 0)


def figures_of(project: Project, since_us: int) -> tuple[ServiceMetrics, ServiceMetrics]:
    catalog, registry = project.state.catalog, project.registry
    canary, champion = (registry.get(f"buyer@{n}").id for n in (1, 2))
    return (
        service_metrics(catalog, "buyer", canary, "canary", since_us=since_us),
        service_metrics(catalog, "buyer", champion, "champion", since_us=since_us),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "kind"), [(None, None), ("sleeps", "latency"), ("constant", "constant")])
def test_a_canary_that_does_harm_is_in_breach_and_one_that_does_not_is_not(
    own: Path, fault: str | None, kind: str | None
) -> None:
    with shop.serving(own, "--as-of", AS_OF) as (_, url):
        before = asked = 0
        while not before:  # until the canary is loaded
            before, asked = ask(url, 10), asked + 10
        if fault is not None:
            (own / "fault").write_text(f"{fault} {(own / 'many').read_text()}")  # it was loaded without
        ask(url, 300)
    canary, champion = told(own)
    assert canary.requests + champion.requests == asked + 300
    assert 100 < canary.requests - before < 210
    said = breach(canary, champion, guardrails())
    assert (None if said is None else said.kind) == kind
    assert canary.failures == 0
    assert canary.timed == canary.scored == canary.requests
    assert champion.timed == champion.scored == champion.requests
    assert champion.lines()[1].startswith("  features and model: median ")
    assert canary.lines()[0].startswith(f"canary: {canary.requests} requests, ")


def test_a_canary_of_a_rollout_that_does_harm_is_withdrawn_by_the_loop(own_once: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own_once, tmp_path / "project"))
    text = (folder / "project.py").read_text()
    rolled = 'buyer("buyer", Own, rollout=tt.rollout(canary=[0.5], step="30d"))'
    (folder / "project.py").write_text(text.replace('buyer("buyer", Own)', rolled))
    with shop.opened(folder) as project:
        assert [d.act for d in project.promote("buyer@1", why="It is tried.").decisions] == ["gate", "canary"]
        assert project.tick() == []
    with shop.serving(folder, "--as-of", AS_OF) as (_, url):
        while not ask(url, 10):  # until the canary is loaded, because it is loaded without the fault
            pass
        (folder / "fault").write_text(f"raises {(folder / 'many').read_text()}")
        ask(url, 300)
    canary, champion = told(folder)
    said = breach(canary, champion, guardrails())
    assert said is not None
    assert said.kind == "failures"
    assert canary.failures > 90
    assert canary.timed == canary.scored == canary.requests - canary.failures
    assert champion.failures == champion.degraded == canary.degraded == 0  # clients got the champion's answer
    with shop.opened(folder) as project:
        assert [d.act for d in project.tick()] == ["refuse"]
        assert project.ledger()[-1].cause.startswith("The canary of 50% was withdrawn: ")
        assert arm_shares(project.state.catalog, "buyer").canary == 0.0
        assert project.registry.get("buyer@champion").number == 2


def test_workers_add_up(own: Path) -> None:
    with shop.serving(own, "--as-of", AS_OF, "--workers", "2") as (_, url):
        shop.all_ready(own)
        for _ in range(8):  # connections, shared by the workers
            ask(url, 25)
    canary, champion = told(own)
    assert canary.requests + champion.requests == 200
    assert canary.requests > 0
    assert champion.requests > 0


@pytest.mark.slow
def test_what_a_killed_service_counted_is_lost_since_the_last_writing_alone(own: Path) -> None:
    def written() -> int:
        return sum(one.requests for one in told(own))

    with shop.serving(own, "--as-of", AS_OF, stop=signal.SIGKILL) as (_, url):
        ask(url, 40)
        eventually(lambda: written() == 40)
        ask(url, 30)
    assert 40 <= written() <= 70
    kept = written()
    with shop.serving(own, "--as-of", AS_OF) as (_, url):
        ask(url, 25)
    assert written() == kept + 25
