"""What the command says: help, errors, JSON; in process."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import click
import msgspec
import pytest
from click.testing import CliRunner

from trimtab.cli import exits
from trimtab.cli.exits import STATUS_BY_ERROR, printable
from trimtab.cli.group import trimtab
from trimtab.cli.verbs import TOP, Group, paths
from trimtab.core.config import Config, ScenarioSettings
from trimtab.core.errors import TrimtabError

ROOT = Path(__file__).parents[2]


GROUPS = [name for name, place in TOP.items() if isinstance(place, Group)]


def loaded(words: str) -> click.Command:
    found: click.Command = trimtab
    for word in words.split():
        assert isinstance(found, click.Group)
        below = found.get_command(click.Context(found), word)
        assert below is not None
        found = below
    return found


@pytest.mark.fast
@pytest.mark.parametrize("name", [*paths(), *GROUPS])
def test_every_command_has_an_example_and_the_common_options(name: str) -> None:
    shown = CliRunner().invoke(trimtab, [*name.split(), "--help"])
    assert shown.exit_code == 0
    assert re.search(rf"Example:\n.*trimtab {name}\b", shown.output)
    for option in ("--project", "--json", "--debug"):
        assert option in shown.output


def test_every_option_says_what_it_does() -> None:
    options = [(name, p) for name in paths() for p in loaded(name).params if isinstance(p, click.Option)]
    silent = [(name, p.opts) for name, p in options if not p.help and p.name not in ("seed", "mode")]
    assert silent == []


def test_the_help_lists_every_command_once() -> None:
    shown = CliRunner().invoke(trimtab, ["--help"]).output
    listed = re.findall(r"^  ([a-z]+)(?:, [a-z]+)?  +[A-Z]", shown, flags=re.MULTILINE)
    assert sorted(listed) == sorted(TOP)
    for name in GROUPS:
        shown = CliRunner().invoke(trimtab, [name, "--help"]).output.partition("Commands:")[2]
        assert re.findall(r"^  ([a-z]+)  +[A-Z]", shown, flags=re.MULTILINE) == loaded(name).list_commands(
            click.Context(trimtab)
        )


def test_the_document_lists_every_command_and_every_exit_status() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert [name for name in paths() if f"`trimtab {name}" not in text] == []
    table = text.partition("## Exit status")[2]
    documented = {
        int(n) for cell in re.findall(r"^\| ([\d, ]+) \|", table, flags=re.MULTILINE) for n in cell.split(",")
    }
    own = {exits.FAILED, exits.UNEXPECTED, exits.INTERRUPTED, exits.TERMINATED, exits.BROKEN_PIPE, 0}
    assert documented == own | set(STATUS_BY_ERROR.values())
    for kind, status in STATUS_BY_ERROR.items():
        assert re.search(rf"^\| {status} \|.*`{kind.__name__}`", table, flags=re.MULTILINE)


def test_every_error_has_an_exit_status_of_its_own() -> None:
    assert set(STATUS_BY_ERROR) == set(TrimtabError.__subclasses__())
    assert len(set(STATUS_BY_ERROR.values())) == len(STATUS_BY_ERROR)


def settings_in(kind: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def test_the_document_lists_every_setting_with_its_default() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "settings.md").read_text(), flags=re.MULTILINE)[1:]
    rows = {s.splitlines()[0]: dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", s, flags=re.MULTILINE)) for s in sections}
    hints = get_type_hints(Config)
    expected: dict[str, dict[str, object]] = {"Top level": {}}
    for name, hint in hints.items():
        kinds = [k for k in (hint, *get_args(hint)) if isinstance(k, type) and issubclass(k, msgspec.Struct)]
        if kinds and get_origin(hint) is not list:
            expected[f"[{name}]"] = settings_in(kinds[0])
        elif name != "folder":
            expected["Top level"][name] = Config.__struct_defaults__[Config.__struct_fields__.index(name)]
    expected["[demo]"] |= settings_in(ScenarioSettings)  # the lines' own table stands in the same section
    assert {section: set(found) for section, found in rows.items()} == {s: set(f) for s, f in expected.items()}
    for section, settings in expected.items():
        for key, default in settings.items():
            shown = "" if default is msgspec.NODEFAULT else "none" if default is None else json.dumps(default)
            if not isinstance(default, msgspec.UnsetType) and default != [] and shown.strip():
                assert rows[section][key] == shown, (section, key)


@pytest.mark.parametrize("arguments", [["init", "none.csv", "--json"], ["--json", "init", "none.csv"]])
def test_errors_are_json_where_json_is_wanted(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(trimtab, arguments)
    assert done.exit_code == 3
    assert json.loads(done.stderr)["error"] == "NotFound"
    assert done.stdout == ""


def test_completion_after_a_misspelt_command_says_nothing() -> None:
    typed = {"_TRIMTAB_COMPLETE": "bash_complete", "COMP_WORDS": "trimtab stats --", "COMP_CWORD": "2"}
    done = CliRunner().invoke(trimtab, [], env=typed)
    assert done.stderr == ""
    completed = CliRunner().invoke(trimtab, [], env=typed | {"COMP_WORDS": "trimtab status --js"})
    assert completed.stdout == "plain,--json\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stats"], ["No such command 'stats'. Did you mean 'status'?", "Try: trimtab --help"]),
        (["xyzzy"], ["No such command 'xyzzy'.\nTry: trimtab --help"]),
        (["init"], ["Missing argument 'FILE'", "Try: trimtab init --help"]),
        (["status", "--colour"], ["No such option", "--colour"]),
        (["serve", "--port", "70000"], ["--port", "70000"]),
        (["predict", "m"], ["FILE or --row"]),
        (["predict", "m", "f.csv", "--row", "{}"], ["FILE or --row"]),
        (["predict", "m", "--row", "{}", "--out", "x.csv"], ["--out is for FILE"]),
        (["predict", "m", "--row", "{}", "--mode", "precomputed"], ["--mode is for FILE", "Try: trimtab predict"]),
        (["predict", "m", "--row", "{x}"], ["--row: not JSON"]),
        (["predict", "m", "--row", "[1]"], ["found a list", "JSON object"]),
        (["predict", "m", "--row", "{}", "--at", "soon"], ["'soon' is not ISO 8601"]),
        (
            ["quality", "skew", "m", "--history", "3"],
            ["MODEL is for a new check; --history shows the newest checks of all models"],
        ),
        (["quality", "skew", "--history", "3", "--since", "2024-05-01"], ["--since is for a new check"]),
        (["quality", "skew", "--history", "3", "--seed", "1"], ["--seed is for a new check"]),
        (["quality", "skew", "--history", "3", "--scores"], ["--scores is for a new check"]),
        (["quality", "skew", "--all", "--sample", "1000"], ["--sample and --all exclude each other"]),
        (
            ["versions", "show", "m@7", "--tag", "seen"],
            ["No such option '--tag'. It is an option of: trimtab versions list"],
        ),
        (["versions", "list", "m@7"], ["m@7 is a single version", "trimtab versions show m@7"]),
        (
            ["versions", "compare", "m@7", "m@8", "--no-rows", "--window", "14d"],
            ["--window has no effect with"],
        ),
        (["ledger", "verify", "--last", "3"], ["It is an option of: trimtab ledger list"]),
        (["quarantine", "--yes"], ["No such option '--yes'"]),
        (["quarantine", "replay", "a", "--yes"], ["No such option '--yes'"]),
        (["ledger", "burn"], ["burn"]),
        (["init", "x.csv", "--estimator", "magic"], ["magic", "linear"]),
    ],
)
def test_wrong_usage_is_two_lines_and_status_2(arguments: list[str], words: list[str]) -> None:
    done = CliRunner().invoke(trimtab, arguments)
    assert done.exit_code == 2
    assert [word for word in words if word not in done.stderr] == []
    assert len(done.stderr.splitlines()) <= 2


def test_without_arguments_the_help_is_shown() -> None:
    done = CliRunner().invoke(trimtab, [])
    assert done.exit_code == 2
    assert "doctor" in done.stderr


@pytest.mark.parametrize(
    "name", ["status", "train", "tick", "serve", "ledger", "freeze", "unfreeze", "simulate", "demo"]
)
def test_a_folder_that_is_no_project_is_told_with_the_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(trimtab, [name])
    assert done.exit_code == 3
    assert "trimtab.toml" in done.stderr
    assert "trimtab init FILE" in done.stderr


def test_the_project_is_the_nearest_folder_upward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trimtab.toml").write_text("colour = 1\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    done = CliRunner().invoke(trimtab, ["demo"])
    assert str(tmp_path / "trimtab.toml") in done.stderr
    named = CliRunner().invoke(trimtab, ["--project", str(below), "demo"])
    assert named.exit_code == 3


def test_version_names_what_trimtab_stands_on() -> None:
    done = CliRunner().invoke(trimtab, ["--version", "--json"])
    assert {"trimtab", "Python", "numpy", "duckdb", "lmdb", "SQLite", "platform"} <= json.loads(done.stdout).keys()
    assert CliRunner().invoke(trimtab, ["--version"]).stdout.startswith("trimtab")


def test_doctor_fails_when_something_is_missing(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    done = CliRunner().invoke(trimtab, ["doctor", "--project", str(tmp_path)])
    assert done.exit_code == 1
    assert "project.py: not found" in done.stdout
    found = json.loads(CliRunner().invoke(trimtab, ["doctor", "--json", "--project", str(tmp_path)]).stdout)
    assert [f["name"] for f in found if f["state"] == "missing"] == ["project file"]


def test_doctor_checks_the_machine_alone_where_there_is_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(trimtab, ["doctor"])
    assert done.exit_code == 0
    assert "only the machine" in done.stdout


def test_init_prints_what_it_guessed_and_what_to_do_next(churn_csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made here"
    arguments = ["init", str(churn_csv), "--folder", str(folder), "--label", "churned", "--estimator", "linear"]
    done = CliRunner().invoke(trimtab, arguments)
    assert done.exit_code == 0, done.stderr
    assert "  time: 'Signed Up' is when a row happened (--time)\n" in done.stdout
    assert re.search(r"Signed Up +time +- +\d+ ", done.stdout)
    assert f"cd '{folder}'" in done.stdout
    for step in ("ingest churn ", "ingest churn_labels ", "train", "predict churned ../", "serve"):
        assert f"\n  trimtab {step}" in done.stdout
    again = CliRunner().invoke(trimtab, arguments)
    assert again.exit_code == 4
    assert "project.py" in again.stderr


def test_control_characters_of_data_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b]0;b\u202e") == "a\\x1b]0;b\\u202e"
    done = CliRunner().invoke(trimtab, ["init", "no\x1b[31m.csv"])
    assert "\x1b" not in done.stderr
