"""The further addresses of a served project: models, aliases, features, labels, why, documents, keys, HTTPS."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from html import unescape
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import pytest
import shop

import forked
from processes import eventually
from trimtab.app.project import open_project
from trimtab.app.serve.addresses import openapi_json
from trimtab.app.serve.operations import ProjectModels
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.time import DAY_US, HOUR_US, format_time, parse_time_us
from trimtab.features.online.read.entity_read import read_entity
from trimtab.serving.client import connect
from trimtab.serving.http.routes.addresses import PROJECT, SERVICE
from trimtab.serving.http.routes.operations import Move, RollBack
from trimtab.serving.inference.rest import ADDRESSES as INFERENCE
from trimtab.serving.problems import InvalidField

DOCS = Path(__file__).parents[2] / "docs"
AS_OF = format_time(shop.NOW_US)
ALIASES = "/v1/models/buyer/aliases"


class Asker:
    """Asks one server, with a key or without."""

    def __init__(self, url: str, **headers: str) -> None:
        self._place = urlsplit(url).netloc
        self._headers = headers
        self.headers: dict[str, str] = {}  # of the last answer

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = HTTPConnection(self._place, timeout=60)
        sent = {"content-type": "application/json"} | self._headers | headers
        text = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
        connection.request(method, path, text, {name.replace("_", "-"): value for name, value in sent.items()})
        response = connection.getresponse()
        found = response.read()
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        kind = self.headers["content-type"]
        return response.status, json.loads(found) if found and "json" in kind else found.decode()


@pytest.fixture(scope="module")
def served(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("addresses") / "project"))
    with shop.serving(folder, "--as-of", AS_OF) as (process, url):
        yield folder, url
        process.terminate()
        assert process.wait(timeout=60) == 0


@pytest.fixture
def ask(served: tuple[Path, str]) -> Asker:
    return Asker(served[1])


def test_a_model_has_a_page_that_runs_nothing(ask: Asker) -> None:
    status, page = ask("GET", "/v1/models/buyer/page")
    assert status == 200
    assert ask.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src" not in ask.headers["content-security-policy"]  # what is not named falls to default-src 'none'
    assert "default-src 'none'" in ask.headers["content-security-policy"]
    assert '<a href="/">Overview</a><h1>buyer: quality</h1>' in page
    assert "<script" not in page
    assert "None of the last 120 days is closed yet." in page
    status, problem = ask("GET", "/v1/models/byer/page")
    assert status == 404
    assert "buyer" in problem["detail"]


def test_the_first_page_shows_the_project_and_leads_to_its_models(ask: Asker) -> None:
    status, page = ask("GET", "/")
    assert status == 200
    assert "default-src 'none'" in ask.headers["content-security-policy"]
    assert '<a href="/v1/models/buyer/page">buyer</a>' in page
    assert "buyer@2" in page
    for line in ask("GET", "/v1/models")[1]["models"]:
        assert f'href="/v1/models/{line["name"]}/page"' in page
    assert all(name in page for name in ("Sources", "Newest decisions", "promote"))
    assert "<script" not in page


def test_the_status_is_that_of_the_project(ask: Asker, served: tuple[Path, str]) -> None:
    status, found = ask("GET", "/v1/status")
    with shop.opened(served[0]) as project:
        there = json.loads(msgspec.json.encode(project.status()))
    assert status == 200
    assert [one["model"] for one in found["deployments"]] == ["buyer", "learner"]
    for name in ("deployments", "sources", "signals", "red"):
        assert found[name] == there[name]


def visit(key: str) -> dict[str, Any]:
    return {**shop.visit(key, shop.NOW_US), "at": AS_OF}


def predicted(ask: Asker, key: str) -> dict[str, Any]:
    status, answer = ask("POST", "/v1/models/buyer/predict", {"request": visit(key)})
    assert status == 200
    assert isinstance(answer, dict)
    return answer


@pytest.mark.fast
def test_models_and_their_versions_are_shown(ask: Asker) -> None:
    status, found = ask("GET", "/v1/models")
    assert (status, [one["name"] for one in found["models"]]) == (200, ["buyer", "learner"])
    assert ask("GET", "/v1/models/buyer")[1] == found["models"][0]
    assert found["models"][0]["serving"]["version"] == "buyer@2"
    versions = ask("GET", "/v1/models/buyer/versions")[1]["versions"]
    assert [one["name"] for one in versions] == ["buyer@1", "buyer@2"]
    for reference in ("2", "buyer@2", "buyer@champion", versions[1]["address"]):
        status, one = ask("GET", f"/v1/models/buyer/versions/{quote(reference)}")
        assert (status, one["name"]) == (200, "buyer@2")
        assert [field["name"] for field in one["signature"]["request"]] == ["visit_id", "site", "at", "x"]
    assert (
        ask("GET", "/v1/models/nobody")[1]["detail"]
        == "no deployment of model 'nobody'. Deployed models: buyer, learner."
    )
    for wrong in ("99", "learner@1", "nonsense", "", "%00", "9" * 40):
        assert ask("GET", f"/v1/models/buyer/versions/{wrong}")[0] in (400, 404)


def test_an_alias_moves_only_from_where_it_is_expected_and_with_what_it_needs(ask: Asker) -> None:
    status, problem = ask("PUT", f"{ALIASES}/champion", {"version": 1, "expected": 2, "why": "because"})
    assert (status, "no gate record" in problem["detail"]) == (400, True)
    move = {"version": 1, "expected": None, "why": "to look at"}
    assert ask("PUT", f"{ALIASES}/challenger", move)[1]["act"] == "first"
    status, problem = ask("PUT", f"{ALIASES}/challenger", {**move, "version": 2})
    assert (status, "Read the alias again" in problem["detail"]) == (409, True)
    status, moved = ask("PUT", f"{ALIASES}/challenger", {**move, "version": "buyer@2", "expected": "buyer@1"})
    assert (status, moved["actor"], moved["why"]) == (200, "a person", "to look at")
    back = f"{ALIASES}/challenger/rollback"
    status, problem = ask("POST", back, {"expected": 1, "why": "worse"})
    assert (status, "expected buyer@1, found buyer@2" in problem["detail"]) == (409, True)
    assert ask("POST", back, {"expected": 2, "why": "worse"})[1]["act"] == "roll_back"
    assert ask("GET", f"{ALIASES}/challenger")[1]["version"] == "buyer@1"
    assert ask("POST", back, {"expected": 1, "why": "worse"})[0] == 404
    status, problem = ask("PUT", f"{ALIASES}/challenger", {"version": 1, "why": "x"})
    assert (status, problem["field"]) == (422, "expected")
    for body in ("", "[]", "null", '{"version": 1.5, "expected": 1, "why": "x"}', "\xff", "[" * 9_000):
        assert ask("PUT", f"{ALIASES}/challenger", body)[0] in (400, 422)
    assert ask("PUT", f"{ALIASES}/No%20Alias", move)[0] == 400
    assert ask("DELETE", f"{ALIASES}/challenger")[0] == 405
    assert ask.headers["allow"] == "GET, HEAD, PUT, POST"


def test_a_champion_that_is_moved_or_rolled_back_is_in_the_ledger_with_who_did_it(trained: Path) -> None:
    with shop.opened(trained) as project:
        models = ProjectModels(project)
        gate = next(g for g in project.registry.gates_of(project.registry.get("buyer@2")) if g.passed)
        move = Move(version=1, expected=2, why="the rows were wrong", gate=gate.id)
        with pytest.raises(Conflict, match="Judge it again"):
            models.move("buyer", "champion", move, actor="release-bot")
        record = shop_gate(project, gate)
        project.registry.put_gate(record)
        move = msgspec.structs.replace(move, gate=record.id)
        assert models.move("buyer", "champion", move, actor="release-bot").actor == "release-bot"
        with pytest.raises(Conflict, match="expected buyer@2, found buyer@1"):
            models.roll_back("buyer", "champion", RollBack(expected=2, why="no better"), actor="release-bot")
        models.roll_back("buyer", "champion", RollBack(expected="buyer@1", why="no better"), actor="release-bot")
        rows = [(row.act, row.actor, row.cause) for row in project.ledger()[-2:]]
        assert rows == [
            ("promote", "release-bot", "the rows were wrong"),
            ("roll_back", "release-bot", "no better"),
        ]
        assert project.verify_ledger() == len(project.ledger())


def shop_gate(project: Any, gate: Any) -> Any:
    """A record that speaks for the first version against the second."""
    one, two = project.registry.get("buyer@1").id, project.registry.get("buyer@2").id
    checks = {**gate.checks, "better_by_margin": True, "provably_better": True}
    return msgspec.structs.replace(gate, id="gate_for_one", candidate=one, champion=two, checks=checks, findings=())


def test_the_features_of_an_entity_are_those_that_a_request_would_read(ask: Asker) -> None:
    status, found = ask("GET", "/v1/entities/site/north/features")
    assert (status, found["key"], len(found["views"])) == (200, {"site": "north"}, 1)
    view = found["views"][0]
    answer = predicted(ask, "features")
    logged = ask("GET", f"/v1/predictions/{answer['id']}")[1]
    assert [one["value"] for one in view["features"].values()] == logged["values"][2:]
    assert 0 < view["age_us"] == found["at_us"] - view["newest_at_us"] < DAY_US
    assert ask("GET", "/v1/entities/site/north/features?model=buyer")[1]["views"][0]["features"] == view["features"]
    nobody = ask("GET", "/v1/entities/site/a%2Fb%20c/features")[1]
    assert nobody["key"] == {"site": "a/b c"}
    assert {one["reason"] for one in nobody["views"][0]["features"].values()} == {"no_entity"}
    assert nobody["views"][0]["newest_at_us"] is None
    assert ask("GET", "/v1/entities/visit/x/features")[1]["detail"].endswith("Entities of views: site.")
    assert ask("GET", "/v1/entities/site/a/b/features")[0] == 400
    assert ask("GET", "/v1/entities/site/a/features?modle=buyer")[0] == 400
    assert ask("GET", "/v1/entities/site/a/features?model=x")[0] == 404
    for cut in ("v1%2Fentities/site/a", "v1%2Fentities%2Fsite%2Fa", "v1%2Fentities/site/a/b/c", "v1/entities%2Fsite/a"):
        status, problem = ask("GET", f"/{cut}/features")
        assert (status, "ENTITY/KEY/features" in problem["detail"]) == (404, True)
    assert ask("GET", "/v1/entities/site/a%2Ffeatures")[0] == 404
    lines = ask("GET", "/v1/entities/site/a%0Ab%0D/features")
    assert (lines[0], lines[1]["key"]) == (200, {"site": "a\nb\r"})
    assert ask("GET", "/v1/models%0A")[0] == 404


def test_an_entity_is_as_old_as_its_newest_event_that_counts(trained: Path) -> None:
    with shop.opened(trained) as project:
        at_us = project.clock.now_us()
        row = {"site": "west", "level": 1.0, "read_at": at_us - HOUR_US}
        project.push("readings", [row, {**row, "read_at": at_us}])
        project.views.catch_up()
        view = project.definitions.views["site"]
        now = read_entity(project.state.online, [view], ["west"], at_us)
        assert now.views[0].age_us == HOUR_US  # the other is of this very moment
        later = read_entity(project.state.online, [view], ["west"], at_us + 5)
        assert later.views[0].age_us == 5


def test_labels_are_told_by_prediction_or_by_key(ask: Asker, served: tuple[Path, str]) -> None:
    first, second = predicted(ask, "l1"), predicted(ask, "l2")
    rows = [
        {"prediction": first["id"], "value": True},
        {"request": "l2", "columns": {"bought": False, "site": "north"}, "at": second["at_us"] + 5},
    ]
    status, told = ask("POST", "/v1/labels/buyer", rows)
    taken = {"source": "sales", "accepted": 2, "quarantined": 0, "problems": [], "absent": [], "late": 0}
    assert (status, told) == (200, taken)  # the first names no site: that of its request is taken
    whole = {"request": "l2", "columns": {"bought": False, "site": "north"}}
    assert ask("POST", "/v1/labels/buyer", whole)[1]["absent"] == []
    for wrong, field in (
        ({"value": True}, "prediction"),
        ({"prediction": "a", "request": "b", "value": True}, "prediction"),
        ({"request": "a"}, "value"),
        ({"request": "a", "value": True, "columns": {"bought": True}}, "value"),
        ({"request": "a", "columns": {"visit_id": "b"}}, "visit_id"),
        ({"request": "a", "columns": {"nothing": "b"}}, "nothing"),
        ({"request": "a", "value": "perhaps"}, "bought"),
        ({"request": "l1", "value": None}, "value"),
        ({"request": "a", "value": True, "at": "soon"}, "at"),
        ({"request": "a", "value": True, "at": 1_700_000_000}, "at"),
        ({"request": "a", "value": True, "more": 1}, "more"),
        ({"prediction": first["id"], "value": True}, "prediction"),
    ):
        model = "learner" if wrong.get("prediction") == first["id"] else "buyer"
        status, problem = ask("POST", f"/v1/labels/{model}", [wrong])
        assert (status, problem.get("field")) == (422, field), (wrong, problem)
    assert ask("POST", "/v1/labels/buyer", {"prediction": "p_nothing", "value": True})[0] == 404
    assert ask("POST", "/v1/labels/nobody", rows)[0] == 404
    with shop.opened(served[0], shop.NOW_US + HOUR_US) as project:
        project.history.refresh()
        keys = project.history.frame("sales").columns["visit_id"].values.tolist()
        assert {"l1", "l2"} <= set(keys)


def test_labels_are_counted_and_waited_for_as_events_are(ask: Asker) -> None:
    def counted(fate: str) -> int:
        found = re.search(rf'trimtab_events_total{{source="sales",fate="{fate}"}} (\d+)', ask("GET", "/metrics")[1])
        return 0 if found is None else int(found[1])

    before = counted("accepted"), counted("quarantined")
    rows = [{"request": "w1", "value": True}, {"request": "w2", "value": "perhaps"}]
    status, told = ask("POST", "/v1/labels/buyer?wait=applied", rows)
    assert (status, told["accepted"], told["quarantined"]) == (200, 1, 1)
    assert (counted("accepted"), counted("quarantined")) == (before[0] + 1, before[1] + 1)
    status, problem = ask("POST", "/v1/labels/buyer", rows[1:])
    assert (status, problem["detail"].partition(";")[0]) == (422, "none of 1 labels was taken")
    assert ask("POST", "/v1/labels/buyer?wait=long", rows)[0] == 400


def test_why_is_what_the_command_says(ask: Asker) -> None:
    answer = predicted(ask, "why")
    status, why = ask("GET", f"/v1/predictions/{answer['id']}?why")
    assert (status, why["version"], why["score"], why["request"]["visit_id"]) == (
        200,
        "buyer@2",
        answer["score"],
        "why",
    )
    assert ask("GET", f"/v1/predictions/{answer['id']}?why=no")[0] == 400
    assert ask("GET", "/v1/predictions/p_nothing?why")[0] == 404


def test_every_answer_of_these_addresses_is_kept_by_nobody_and_named(ask: Asker) -> None:
    for path in ("/v1/models", "/v1/nothing", "/docs", "/openapi.json", "/health/live", "/metrics"):
        ask("GET", path, x_request_id="job-7")
        assert ask.headers["x-content-type-options"] == "nosniff"
        assert ask.headers["cache-control"] == "no-store"
        assert ask.headers["x-request-id"] == "job-7"
    ask("GET", "/v1/models", x_request_id="two words")
    assert len(ask.headers["x-request-id"]) == 32
    assert ask("HEAD", "/v1/models") == (200, "")


def test_the_page_runs_its_own_script_alone_and_asks_nobody_else(ask: Asker) -> None:
    status, page = ask("GET", "/docs")
    policy = ask.headers["content-security-policy"]
    assert status == 200
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http://" not in page
    assert "https://" not in page
    assert "innerHTML" not in page
    assert "(prefers-color-scheme: dark)" in page


def test_the_page_shows_every_address_in_a_browser(served: tuple[Path, str]) -> None:
    shown = in_a_browser(f"{served[1]}/docs")
    for path in json.loads(openapi_of(served[0]))["paths"]:
        assert f">{path}<" in shown


def test_the_form_of_events_shows_one_that_is_taken(served: tuple[Path, str]) -> None:
    """Its example was null, and what it takes was anything."""
    shown = in_a_browser(f"{served[1]}/docs#push_sales")
    assert 'placeholder="applied: ' in shown
    (takes,) = re.findall(r">Takes, application/json</label><pre>(.*?)</pre>", shown, re.DOTALL)
    assert re.findall(r"\b(visit_id|closed_at\?|bought\?|anything)", takes) == ["visit_id", "bought?", "closed_at?"] * 2
    (body,) = re.findall(r"<textarea[^>]*>(.*?)</textarea>", shown, re.DOTALL)
    event = json.loads(unescape(body))
    assert event == {"visit_id": "text", "closed_at": event["closed_at"]}
    assert parse_time_us(event["closed_at"]) > shop.NOW_US


def in_a_browser(url: str) -> str:
    """A page as its script made it."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom", url]
    return forked.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def openapi_of(folder: Path) -> bytes:
    with open_project(folder, environment={}) as project:
        return openapi_json(project)


def test_the_document_is_the_same_from_the_service_and_the_command(
    ask: Asker, served: tuple[Path, str], tmp_path: Path
) -> None:
    status, document = ask("GET", "/openapi.json")
    assert status == 200
    assert document == json.loads(openapi_of(served[0]))
    operations = [one for path in document["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(names)


def test_what_changes_something_needs_more_than_the_right_to_read() -> None:
    for address in (*SERVICE, *PROJECT, *INFERENCE):
        if address.method != "GET":
            read = address.path == "/v2/repository/index"  # a list, asked for by POST
            assert address.right == "read" if read else address.right in ("predict", "write", "admin")


def test_a_mistyped_address_is_none_whatever_the_host_is_called(served: tuple[Path, str]) -> None:
    address = served[1].removeprefix("http://")
    for path, status in (("/v1/event/readings", 404), ("/v1/models", 405), ("/v1/models/buyer/aliases/champion", 403)):
        connection = HTTPConnection(address, timeout=60)
        connection.request("POST", path, "{}", {"host": "models.example.com", "content-type": "application/json"})
        assert connection.getresponse().status == status
        connection.close()


def test_the_documents_tables_have_every_address_and_no_other(served: tuple[Path, str]) -> None:
    here, told = set(), set()
    for path, operations in json.loads(openapi_of(served[0]))["paths"].items():
        general = re.sub(r"^(/v1/models/)(?:buyer|learner)(?=/predict)", r"\1{}", path)
        general = re.sub(r"^(/v1/events|/v1/entities)/\w+", r"\1/{}", general)
        here |= {(method.upper(), re.sub(r"\{\w*\}", "{}", general)) for method in operations}
    for document in ("http.md", "inference.md"):
        rows = re.findall(r"(?m)^\| (`/[^|]+) \| ([A-Z, ]+) \|", (DOCS / document).read_text("utf-8"))
        for addresses, methods in rows:
            for path in re.findall(r"`(/[^`]*)`", addresses):
                told |= {(method, re.sub(r"\{\w+\}", "{}", path)) for method in methods.split(", ")}
    assert told - here == {("GET", "/v2/..."), ("POST", "/v2/...")}  # all that the other document has
    assert here - told == set()


def test_the_document_is_valid_openapi_and_its_schemas_take_what_the_service_takes(ask: Asker) -> None:
    import jsonschema_rs
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

    document = ask("GET", "/openapi.json")[1]
    OPENAPI_31_VALIDATOR.validate(document)
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        jsonschema_rs.meta.validate(schema)
    row = jsonschema_rs.validator_for(schemas["buyer.row"])
    assert row.is_valid(visit("a"))
    assert not row.is_valid({**visit("a"), "x": "much"})
    assert not row.is_valid({**visit("a"), "visit_id": None})
    answer = jsonschema_rs.validator_for({**schemas["buyer.answer"], "components": document["components"]})
    assert answer.is_valid(predicted(ask, "valid"))
    roles = {path: [one.get("description") for one in of.values()] for path, of in document["paths"].items()}
    assert roles["/v1/models/{model}/aliases/{alias}"] == ["Role: read.", "Role: admin.", "Role: admin."]
    assert roles["/health/live"] == [None]


def test_the_document_says_which_addresses_heed_a_deadline_and_which_they_take(ask: Asker) -> None:
    import jsonschema_rs

    heeding = {}
    for path, operations in ask("GET", "/openapi.json")[1]["paths"].items():
        for method, operation in operations.items():
            assert "500" in operation["responses"], path
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "header":
                    assert (parameter["name"], parameter["required"]) == ("X-Timeout-Ms", False)
                    heeding[f"{method} {path}"] = jsonschema_rs.validator_for(parameter["schema"])
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [0.5]}
    asked: dict[str, tuple[str, Any]] = {
        "post /v1/models/buyer/predict": ("", {"request": visit("in time")}),
        "post /v1/models/learner/predict": ("", {"request": visit("in time")}),
        "post /v1/events/readings": ("", {"site": "north", "level": 1.0, "read_at": AS_OF}),
        "post /v1/events/sales": ("", {"visit_id": "in time", "_op": "delete"}),
        "post /v1/labels/{model}": ("/v1/labels/buyer", {"request": "in time", "value": True}),
        "get /v1/predictions/{prediction}": ("/v1/predictions/p_nothing", None),
        "post /v2/models/{model}/infer": ("/v2/models/buyer/infer", {"inputs": [tensor]}),
    }
    assert set(heeding) >= set(asked)
    assert all(name.startswith("post /v1/events/") for name in set(heeding) - set(asked))
    refused = (422, 400)  # the Open Inference Protocol knows no other than 400
    for name, (address, body) in asked.items():
        method, _, path = name.partition(" ")
        for value in ("600000", "600000.5", "30000.5", "0", "-1", "soon"):
            number = float(value) if value != "soon" else value
            status, answer = ask(method.upper(), address or path, body, X_Timeout_Ms=value)
            named = status in refused and "X-Timeout-Ms" in json.dumps(answer)
            assert heeding[name].is_valid(number) is not named, (name, value, answer)


def test_the_document_takes_the_events_that_the_service_takes_and_no_others(ask: Asker) -> None:
    import jsonschema_rs

    document = ask("GET", "/openapi.json")[1]
    sold = {"visit_id": "a deletion", "site": "north", "bought": True, "closed_at": AS_OF}
    read = {"site": "north", "level": 1.0, "read_at": AS_OF}
    events: list[tuple[str, dict[str, Any], bool]] = [
        ("sales", sold | {"_op": None, "_id": None, "_known_at": None}, True),
        ("sales", {"visit_id": "a deletion", "_op": "delete"}, True),
        ("sales", {"visit_id": "a deletion", "_op": "delete", "closed_at": None}, True),
        ("sales", {"_op": "delete", "closed_at": AS_OF}, False),
        ("sales", {"visit_id": "a deletion", "_op": None}, False),
        ("sales", sold | {"closed_at": None}, False),
        ("sales", sold | {"_op": "undo"}, False),
        ("readings", read | {"_op": None}, True),
        ("readings", read | {"_op": "delete"}, False),
        ("readings", read | {"read_at": None}, False),
    ]
    for source, event, good in events:
        path = document["paths"][f"/v1/events/{source}"]["post"]
        schema = path["requestBody"]["content"]["application/json"]["schema"]
        checked = jsonschema_rs.validator_for({**schema, "components": document["components"]})
        assert checked.is_valid(event) is good, event
        assert (ask("POST", f"/v1/events/{source}", event)[0] == 200) is good, event
    index = document["paths"]["/v2/repository/index"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for asked, good in (({"ready": True, "repository_name": ""}, True), ({"ready": 5}, False)):
        assert jsonschema_rs.validator_for(index).is_valid(asked) is good
        assert (ask("POST", "/v2/repository/index", asked)[0] == 200) is good


def test_the_client_gives_what_the_addresses_give(served: tuple[Path, str], ask: Asker) -> None:
    with connect(served[1]) as client:
        assert [model.name for model in client.models()] == ["buyer", "learner"]
        found = client.features("site", "north", model="buyer")
        assert found.views[0].features["site.level"].reason == "found"
        answer = client.predict("buyer", visit("client"))
        assert client.label("buyer", {"prediction": answer.id, "value": True}).accepted == 1
        assert client.why(answer.id)["score"] == answer.score
        with pytest.raises(InvalidField) as caught:
            client.label("buyer", {"prediction": answer.id, "value": "perhaps"})
        assert caught.value.field == "bought"


def test_administration_from_another_page_or_by_another_name_is_refused(ask: Asker) -> None:
    move = {"version": 1, "expected": None, "why": "to look at"}
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert ask("PUT", f"{ALIASES}/other", move, **headers)[0] == 403
    assert ask("PUT", f"{ALIASES}/other", "{}", content_type="text/plain")[0] == 415


def test_a_running_service_follows_the_keys(trained: Path) -> None:
    with shop.serving(trained, "--as-of", AS_OF) as (_, url):
        ask = Asker(url)
        assert ask("GET", "/v1/models")[0] == 200
        with shop.opened(trained) as project:
            boss = project.keys.add("release-bot", ["admin"])
            till = project.keys.add("till", ["predict"])
            key = project.keys.add("shop", ["predict"], rate="5/h")
        eventually(lambda: ask("GET", "/v1/models")[0] == 401)
        assert "Bearer" in ask.headers["www-authenticate"]
        assert ask("GET", "/health/ready")[0] == 200
        assert ask("POST", "/v1/models/buyer/predict", {"request": visit("a")})[0] == 401
        assert ask("POST", "/v1/models/buyer/predict", {"request": visit("a")}, expect="100-continue")[0] == 401
        keyed, unlimited = Asker(url, authorization=f"Bearer {key}"), Asker(url, x_api_key=till)

        def predict(ask: Asker) -> int:
            return ask("POST", "/v1/models/buyer/predict", {"request": visit("a")})[0]

        eventually(lambda: predict(keyed) == 200)  # the key that was made last: the others are known, too
        assert unlimited("GET", "/v1/models")[0] == 403
        assert [predict(unlimited) for _ in range(7)] == [200] * 7
        assert predict(keyed) == 429  # the next one is in twelve minutes
        assert 500 < int(keyed.headers["retry-after"]) <= 720
        move = {"version": 1, "expected": None, "why": "to look at"}
        moved = Asker(url, x_api_key=boss)("PUT", f"{ALIASES}/challenger", move)[1]
        assert moved["actor"] == "release-bot"
        with shop.opened(trained) as project:
            project.keys.remove("shop")
        eventually(lambda: predict(keyed) == 401)


def test_several_workers_know_the_keys_too(trained: Path) -> None:
    with shop.opened(trained) as project:
        key = project.keys.add("shop", ["read", "predict"])
    with shop.serving(trained, "--as-of", AS_OF, "--workers", "2") as (_, url):
        for _ in range(4):
            assert Asker(url)("GET", "/v1/models")[0] == 401
            assert Asker(url, x_api_key=key)("GET", "/v1/models")[0] == 200
            assert Asker(url, x_api_key=key)("GET", "/v1/entities/site/north/features")[0] == 200


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_certificate_makes_it_https(trained: Path, certificate: tuple[Path, Path], workers: str) -> None:
    cert, key = certificate
    settings = f'[serve]\ntls_cert = "{cert}"\ntls_key = "{key}"\ntls_min = "1.3"\n'
    (trained / "trimtab.toml").write_text(settings)
    with shop.serving(trained, "--as-of", AS_OF, "--workers", workers) as (_, url):
        assert url.startswith("https://127.0.0.1:")
        place = urlsplit(url)
        context = ssl.create_default_context(cafile=str(cert))

        def hello(version: ssl.TLSVersion) -> str | None:
            context.maximum_version = version
            with (
                socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=60) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
            ):
                body = json.dumps({"request": visit("tls")}).encode()
                head = f"POST /v1/models/buyer/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
                secure.sendall(head.encode() + body)
                assert secure.recv(100).startswith(b"HTTP/1.1 200 OK")
                return secure.version()

        assert hello(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises(ssl.SSLError):
            hello(ssl.TLSVersion.TLSv1_2)


def test_a_certificate_that_cannot_be_used_is_named(trained: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    for given, said in (
        ('tls_cert = "nowhere.pem"', "nowhere.pem"),
        (f'tls_cert = "{cert}"', "private key"),
        (f'tls_cert = "{cert}"\ntls_key = "{cert}"', "private key"),
        (f'tls_key = "{key}"', "tls_cert"),
    ):
        (trained / "trimtab.toml").write_text(f"[serve]\n{given}\n")
        for workers in (1, 2):
            with pytest.raises(Misuse, match=said), open_project(trained, environment={}) as project:
                project.serve(port=0, workers=workers)
