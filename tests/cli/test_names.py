"""The names of verbs: unknown ones get a harmless proposal, and no text names an old one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from trimtab.cli.group import trimtab
from trimtab.cli.verbs import ALSO, CAREFUL, CAREFUL_OPTIONS, TOP, Group, paths

ROOT = Path(__file__).parents[2]
OLD = {
    *("arm", "backup", "card", "compact", "compare", "disk", "exclusions", "export", "gc", "import", "join"),
    *("materialise", "openapi", "protect", "rebuild", "recover", "report", "restore", "retain", "skew", "snapshot"),
    *("stages", "tag", "top", "trials"),
}  # before there were verbs below others
DEFINITIONS = """
import trimtab as tt

weather = tt.source("weather", time="at", columns={"origin": str, "temp": float})
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project.py").write_text(DEFINITIONS)
    (tmp_path / "trimtab.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(trimtab, words)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.fast
def test_there_are_about_thirty_verbs() -> None:
    assert 28 <= len(TOP) <= 37
    assert not TOP.keys() & OLD


@pytest.mark.parametrize(
    ("words", "usual"),
    [
        ("keys --json list", "keys list --json"),
        ("ledger --json verify", "ledger verify --json"),
        ("quarantine --reason missing replay weather", "quarantine replay weather --reason missing"),
        ("alert --why w unmute late", "alert unmute late --why w"),
        ("--json storage disk", "storage disk --json"),
    ],
)
def test_options_may_be_before_the_verb(project: Path, words: str, usual: str) -> None:
    said("apply", "--yes")
    said("storage", "disk")  # the first use makes files
    found, expected = said(*words.split()), said(*usual.split())
    assert (found[0], _without_times(found[1]), found[2]) == (expected[0], _without_times(expected[1]), expected[2])


def _without_times(out: str) -> str:
    return re.sub(r'"(at|size_bytes|free_bytes|bytes_a_day)":[^,}]*|\d[\d.,]* ?[kMGT]?B', "", out)


def test_a_verb_that_is_left_out_is_the_list(project: Path) -> None:
    for group in ("versions", "runs", "keys", "ledger", "quarantine", "features", "alert"):
        assert said(group) == said(group, "list")
        assert said(group)[2] == ""
    assert said("storage")[0] == 2


def test_explain_is_why_without_a_remark(project: Path) -> None:
    assert said("explain", "none") == said("why", "none")
    assert ALSO["explain"] == "why"


def test_help_shows_what_the_option_shows(project: Path) -> None:
    for words in ([], ["versions"], ["versions", "list"], ["explain"]):
        assert said("help", *words)[:2] == said(*words, "--help")[:2]
    assert json.loads(said("help", "status", "--json")[1])["help"].startswith("Usage: trimtab status")
    assert said("help", "status", "x")[0] == 2
    assert "Did you mean 'versions'?" in said("help", "version_s")[2]


def proposed(words: list[str]) -> str | None:
    err = said(*words)[2]
    found = re.search(r"id you mean [`']([^`']+)[`']", err)
    return None if found is None else found[1].removeprefix("trimtab ")


def misspelt(word: str) -> set[str]:
    """Every word that lacks a letter, has two letters exchanged, has one twice, or is longer by one."""
    places = range(len(word))
    found = {word[:at] + word[at + 1 :] for at in places} | {word[:at] + word[at] + word[at:] for at in places}
    found |= {word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :] for at in places}
    return {one for one in found | {word + "s", word + "x"} if one}


@pytest.mark.fast
def test_no_misspelling_proposes_what_deletes_or_changes_what_answers(project: Path) -> None:
    for verb in [*TOP, *OLD]:
        for wrong in misspelt(verb) - set(TOP) - set(ALSO):
            said_to = proposed([wrong])
            assert said_to not in CAREFUL, (wrong, said_to)
    for name, place in TOP.items():
        if isinstance(place, Group):
            for verb in place.below:
                for wrong in misspelt(verb) - set(place.below) - {"show"}:
                    assert proposed([name, wrong, "--colour"]) not in CAREFUL, (name, wrong)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stats"], "status"),
        (["verisons"], "versions"),
        (["cmpare"], "versions compare"),
        (["dsik"], "storage disk"),
        (["promot"], None),
        (["forgt"], None),
        (["retian"], None),
        (["prune"], None),
        (["storage", "dsk"], "storage disk"),
        (["storage", "prun"], None),
        (["storage", "restor"], None),
        (["keys", "lst"], "keys list"),
        (["keys", "ad"], None),
        (["storage", "restore", "x", "--forc"], None),
        (["status", "--chek"], "--check"),
        (["apply", "--ye"], None),
    ],
)
def test_what_is_proposed(words: list[str], expected: str | None) -> None:
    assert proposed(words) == expected


def test_an_unknown_word_below_a_verb_is_refused_with_the_verbs_there() -> None:
    status, _, err = said("quality", "late_flight")
    assert status == 2
    assert "No such command 'late_flight'. `trimtab quality` has show, exclusions, skew." in err
    assert said("versions", "late@7")[0] == 2


@pytest.mark.fast
def test_careful_verbs_and_options_exist() -> None:
    assert set(paths()) >= CAREFUL
    texts = "".join((ROOT / "tests/net/cli_help.txt").read_text().split())
    assert [option for option in CAREFUL_OPTIONS if option not in texts] == []


_PLAIN = "|".join(sorted(OLD))
_NAMED = "|".join(
    rf"{name} (?!(?:{'|'.join(place.below)}|--)\b)[A-Za-z{{\[][\w@{{\[]*(?=[`\"' ]|$)"
    for name, place in TOP.items()
    if isinstance(place, Group) and name in ("features", "quality", "quarantine", "search", "versions")
)
OLD_NAME = re.compile(
    rf"(?<!from )\btrimtab (?:(?:{_PLAIN}|metrics rules|run show|run cancel)\b(?![(_]|\.\w)|version\b(?! [\d<])"
    rf"|(?:keys|ledger|quarantine) show\b|{_NAMED})",
    re.MULTILINE,
)
MAY = {
    "tests/cli/test_names.py",
    "docs/decisions/D0205-verbs.md",
}


@pytest.mark.fast
def test_no_document_and_no_message_names_an_old_verb() -> None:
    found = []
    for folder, suffixes in {
        "src": (".py", ".md", ".toml", ".yml", ".html", ".js"),
        "docs": (".md",),
        "examples": (".py", ".md", ".toml"),
        "tests": (".py",),
        "benchmarks": (".py",),
        "changes": (".md",),
    }.items():
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    found += [ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", ".ci/run", ".ci/environment")]
    named = []
    for path in found:
        name = str(path.relative_to(ROOT))
        if name in MAY or name.startswith("changes/18-command-line"):
            continue
        text = path.read_text("utf-8")
        named += [f"{name}: {match[0]}" for match in OLD_NAME.finditer(text)]
    assert named == []
    assert OLD_NAME.search("run `trimtab retain`")
    assert OLD_NAME.search("trimtab versions late@7 ")
