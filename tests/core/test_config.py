from pathlib import Path

import pytest

from trimtab.core.config import load_config
from trimtab.core.errors import Misuse, NotFound


def write(folder: Path, text: str) -> Path:
    (folder / "trimtab.toml").write_text(text)
    return folder


@pytest.mark.fast
def test_an_empty_file_gives_the_defaults_relative_to_its_folder(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""), {})
    assert config.serve.port == 8117
    assert config.state_folder == tmp_path / ".trimtab"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, "[serve]\nport = 9000\n"), {"TRIMTAB_SERVE_PORT": "9001", "TRIMTAB_SEED": "7", "HOME": "x"}
    )
    assert (config.serve.port, config.seed) == (9001, 7)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[serve]\nprot = 1\n", "prot"),
        ("colour = 1\n", "colour"),
        ("folder = '/'\n", "folder"),
        ("[serve]\nport = 70000\n", "70000"),
        ("[serve]\nport = 'x'\n", "port"),
        ("[serve]\nport = '8117'\n", "port"),
        ("[serve]\nport = 8117.5\n", "port"),
        ("[serve]\nmax_rows = inf\n", "max_rows"),
        ("[serve]\nrequire_key = 1.0\n", "require_key"),
        ("[serve]\nrequire_key = 'false'\n", "require_key"),
        ("[serve\n", "TOML"),
    ],
)
def test_what_cannot_be_in_the_file_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(Misuse, match=named) as refused:
        load_config(write(tmp_path, text), {})
    assert "trimtab.toml" in str(refused.value)


def test_a_whole_number_may_be_written_with_a_fraction_of_nothing_and_the_other_way_round(tmp_path: Path) -> None:
    written = "seed = 2.0\n[serve]\nmax_body_bytes = 8e6\ntraces_share = 1\n"
    config = load_config(write(tmp_path, written), {})
    assert (config.seed, config.serve.max_body_bytes, config.serve.traces_share) == (2, 8_000_000, 1.0)
    assert isinstance(config.serve.max_body_bytes, int)
    assert load_config(tmp_path, {"TRIMTAB_SERVE_PORT": "9000"}).serve.port == 9000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[serve]\nlog = "fast"', "'fast' - at `$.serve.log`; give one of 'durable', 'relaxed'. The settings"),
        ('[registry.protected.m]\nlive = "x"', "; give one of 'gate', 'reason'. The settings"),
        (
            '[demo]\nloader="l"\nstart="s"\nuntil="u"\nlines=[{name="n", model="m", policy="x"}]',
            "; give one of 'never', 'project', 'schedule', 'day_ahead'. The settings",
        ),
        ("[serve]\nmax_rows = 0", "max_rows must be 1 or more, not 0"),
        ("[serve]\nmax_body_bytes = -1", "max_body_bytes must be 1 or more, not -1"),
    ],
)
def test_what_may_be_there_instead_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Misuse) as refused:
        load_config(write(tmp_path, text), {})
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["TRIMTAB_SERVE_PROT", "TRIMTAB_COLOUR", "TRIMTAB_SERVE"])
def test_an_unknown_variable_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misuse, match=name):
        load_config(write(tmp_path, ""), {name: "1"})


def test_variables_for_tests_are_no_settings(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, ""), {"TRIMTAB_TEST_PG_URL": "x"}).seed == 1


def test_a_folder_without_the_file_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="trimtab init"):
        load_config(tmp_path, {})
