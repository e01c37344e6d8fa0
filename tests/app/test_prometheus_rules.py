"""Alerting rules: promtool takes them, they ring and stay quiet as they should, and what they name is exposed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import shop
from click.testing import CliRunner

from processes import eventually
from trimtab.app.metrics.loop_metrics import GAUGES, UNREADABLE
from trimtab.app.metrics.prometheus_rules import RULES, TESTS, rules_text
from trimtab.cli.group import trimtab
from trimtab.serving.observe.scrape import read_scrape

DOCS = Path(__file__).parents[2] / "docs"
METRIC = re.compile(r"\btrimtab_\w+")
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on PATH (Debian: apt install prometheus)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `trimtab service rules` has written its files."""
    done = CliRunner().invoke(trimtab, ["service", "rules", "--out", str(tmp_path / "rules")])
    assert done.exit_code == 0, done.output
    return tmp_path / "rules"


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def alerts(text: str) -> dict[str, str]:
    """What the rules file says of each alert."""
    _, *parts = re.split(r"- alert: (\w+)\n", text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def expressions(text: str) -> str:
    """The expressions of all rules."""
    return "\n".join(body.partition("labels:\n")[0] for body in alerts(text).values())


def documented() -> dict[str, set[str]]:
    """The labels of each metric that the tables of the HTTP document name."""
    part = (DOCS / "http.md").read_text("utf-8").partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(trimtab_\w+)` \|([^|]*)\|", part, flags=re.MULTILINE)
    assert len({name for name, _ in rows}) == len(rows)
    own = {name: set(re.findall(r"\w+", labels)) for name, labels in rows}
    return own | {name: set() for name in re.findall(r"`((?:process|python)_\w+)`", part)}


@needs_promtool
def test_promtool_takes_the_rules(folder: Path) -> None:
    done = promtool("check", "rules", RULES, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"{len(alerts(rules_text()))} rules found" in done.stdout


@needs_promtool
def test_the_rules_ring_and_stay_quiet_as_their_unit_tests_say(folder: Path) -> None:
    done = promtool("test", "rules", TESTS, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_unit_tests_miss_each_alert_that_rings_no_more(folder: Path) -> None:
    text = (folder / RULES).read_text()
    never, count = re.subn(r"expr: (\|\n(?: {10}.*\n)+|.*\n)", "expr: vector(0) == 1\n", text)
    assert count == len(alerts(text))
    (folder / RULES).write_text(never)
    assert promtool("check", "rules", RULES, cwd=folder).returncode == 0
    done = promtool("test", "rules", TESTS, cwd=folder)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert [name for name in alerts(text) if f"alertname: {name}," not in said] == []


@needs_promtool
def test_the_unit_tests_miss_each_alert_that_always_rings(folder: Path) -> None:
    text = (folder / RULES).read_text()
    (folder / RULES).write_text(re.sub(r"expr: (\|\n(?: {10}.*\n)+|.*\n)", "expr: vector(1)\n", text))
    done = promtool("test", "rules", TESTS, cwd=folder)
    assert done.returncode == 1
    assert "a healthy service rings nothing" in done.stdout + done.stderr


def test_every_alert_has_a_severity_a_summary_a_section_of_the_docs_and_a_unit_test() -> None:
    text, tests = rules_text(), rules_text(TESTS)
    sections = re.findall(r"^## (\w+)$", (DOCS / "prometheus.md").read_text("utf-8"), flags=re.MULTILINE)
    assert sections == list(alerts(text))
    for name, body in alerts(text).items():
        severity = re.findall(r"severity: (\w+)", body)
        assert severity in (["critical"], ["warning"])
        said = (DOCS / "prometheus.md").read_text("utf-8").partition(f"## {name}\n\n")[2]
        assert said.startswith(f"*{severity[0]}.*")
        assert re.search(r'summary: "[^"]{20,100}"', body)
        assert f"runbook_url: docs/prometheus.md#{name.lower()}\n" in body
        assert re.search(rf"alertname: {name}\n\s+exp_alerts:\n", tests), f"{name} is never expected to ring"


def test_rules_match_by_documented_labels_and_add_workers_up() -> None:
    known, text = documented(), expressions(rules_text())
    for name, matchers in re.findall(r"\b(trimtab_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)\s*(?:=~|!=|=)", matchers)) <= known[name], name
    for body in alerts(rules_text()).values():
        expression = body.partition("labels:\n")[0]
        assert len(METRIC.findall(expression)) == len(re.findall(r"\bby \(job, instance", expression))


def test_kinds_and_flags_that_rules_name_exist() -> None:
    from trimtab.core.records import BEHIND
    from trimtab.monitoring.quality.quality_signals import KINDS
    from trimtab.serving.protect.degradation import LATE

    text = expressions(rules_text())
    assert set(re.findall(r'\bkind!?="(\w+)"', text)) <= set(KINDS)
    (flags,) = re.findall(r'\bflag=~"([\w|]+)"', text)
    told = (DOCS / "http.md").read_text("utf-8").partition("\n| `flags` |")[2].partition("\n")[0]
    assert {LATE, BEHIND} <= set(flags.split("|")) <= set(re.findall(r"`(\w+)`", told))


@pytest.fixture(scope="module")
def service(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service with two workers and an access log."""
    folder = Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("exposed") / "project"))
    (folder / "trimtab.toml").write_text('[serve]\naccess_log = "access.jsonl"\n')
    with shop.serving(folder, "--as-of", "2024-04-10T00:00:00Z", "--workers", "2") as (_, url):
        shop.all_ready(folder)
        yield url


@pytest.fixture
def exposed(service: str) -> str:
    """What it exposes, once the process that ticks the loop has told of it, which it does about once a second."""

    def text() -> str | None:
        said: str = shop.call(f"{service}/metrics")[1]
        return said if UNREADABLE in said and 'trimtab_worker_ready{worker="engine",slot="2"} 1' in said else None

    found: str = eventually(text)
    return found


def test_of_several_workers_the_loop_is_exposed_once_whoever_is_asked(service: str, exposed: str) -> None:
    texts, asked = [exposed], set()
    with ExitStack() as opened:
        for _ in range(16):  # connections that stay open go to both
            one = opened.enter_context(closing(HTTPConnection(service.removeprefix("http://"), timeout=60)))
            one.request("GET", "/metrics")
            texts.append(one.getresponse().read().decode())
    for text in texts:
        own = re.search(r'^trimtab_admission_limit\{worker="(\d)"', text, re.MULTILINE)
        assert own is not None
        asked.add(own[1])  # whoever answers tells of itself first
        scrape = read_scrape(text, 0.0)
        for name in (UNREADABLE, *(set(GAUGES) & set(scrape.samples))):
            assert {dict(key)["worker"] for key in scrape.samples[name]} == {"engine"}
        kinds = ("quality_loss",), ("quality_calibration",)
        assert scrape.total("trimtab_quality_watched", ("kind",), model="buyer") == dict.fromkeys(kinds, 1.0)
        assert scrape.number("trimtab_loop_phase", model="buyer") == 1.0
        assert scrape.number(UNREADABLE) == 0.0
    assert asked == {"1", "2"}


def test_a_service_exposes_what_the_rules_name(exposed: str) -> None:
    families = set(re.findall(r"^# TYPE (\S+) ", exposed, flags=re.MULTILINE))
    named = set(METRIC.findall(expressions(rules_text()))) | set(METRIC.findall(rules_text(TESTS)))
    assert len(named) > 10
    assert named - families == set()


def test_a_service_exposes_what_is_documented_and_nothing_else(exposed: str) -> None:
    families = set(re.findall(r"^# TYPE (\S+) ", exposed, flags=re.MULTILINE))
    assert families == set(documented())
    for name, (_, labels) in GAUGES.items():
        assert documented()[name] == set(labels)
    for name, labels in re.findall(r"^(trimtab_\w+)\{([^}]*)\} ", exposed, flags=re.MULTILINE):
        own = {label for label in re.findall(r'(\w+)="', labels) if label != "worker"} - {"le"}
        family = name if name in families else re.sub(r"_(bucket|sum|count)$", "", name)
        assert own == documented()[family], name


def test_the_command_prints_the_rules_or_writes_them_with_links_to_where_the_docs_are(tmp_path: Path) -> None:
    def call(*words: str) -> str:
        done = CliRunner().invoke(trimtab, ["service", "rules", *words])
        assert done.exit_code == 0, done.output
        return done.output

    assert call() == rules_text()
    assert json.loads(call("--json")) == {"rules": rules_text()}
    said = call("--out", str(tmp_path / "a"), "--docs", "https://wiki.example.com/docs/")
    assert f"rules: {tmp_path / 'a' / RULES}" in said
    for name in (RULES, TESTS):
        text = (tmp_path / "a" / name).read_text()
        assert set(re.findall(r"runbook_url: (\S+)#", text)) == {"https://wiki.example.com/docs/prometheus.md"}
    (tmp_path / "file").write_text("")
    failed = CliRunner().invoke(trimtab, ["service", "rules", "--out", str(tmp_path / "file" / "x")])
    assert failed.exit_code == 2
