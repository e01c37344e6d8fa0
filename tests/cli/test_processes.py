"""How the command ends, as a process: exit statuses, signals, pipes, tracebacks, what it loads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable

GUARDED = """
import sys, time
from trimtab.cli.exits import Manner, guarded, end_in_time
from trimtab.core.errors import *
manner = Manner()
manner.safe = "All is safe."
manner.debug = "--debug" in sys.argv
def work():
    {body}
status = guarded(work, manner)
end_in_time(status)
sys.exit(status)
"""


def guarded(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `body` does inside the command's guard."""
    return subprocess.run(
        [sys.executable, "-c", GUARDED.format(body=body), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("kind", "status"), [(Misuse, 2), (NotFound, 3), (Conflict, 4), (Unavailable, 5), (Corrupt, 6)]
)
def test_an_error_is_one_line_and_its_status(kind: type[Exception], status: int) -> None:
    done = guarded(f"raise {kind.__name__}('file x: needed 1, found 2. Do this.')")
    assert done.returncode == status
    assert done.stderr == "trimtab: file x: needed 1, found 2. Do this.\n"


def test_debug_adds_the_traceback() -> None:
    done = guarded("raise Misuse('x')", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_an_unexpected_error_says_its_type_and_place_and_no_traceback() -> None:
    done = guarded("raise KeyError('x')")
    assert done.returncode == 70
    assert done.stderr.startswith("trimtab: KeyError at ")
    assert "--debug" in done.stderr
    assert "Traceback" not in done.stderr


def test_credentials_in_messages_are_masked() -> None:
    done = guarded("raise Unavailable('redis://app:s3cret@cache:6379/0?token=abc: no answer')")
    assert "s3cret" not in done.stderr
    assert "abc" not in done.stderr
    assert "redis://***@cache" in done.stderr


def test_long_messages_are_cut_to_two_lines() -> None:
    assert len(guarded("raise Misuse('a\\nb\\nc\\nd')").stderr.splitlines()) == 2


IGNORING = """
import os, signal, threading
class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(100_000): pass
def work():
    Dropped()
    time.sleep(60)
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 143), ("SIGINT", 130)])
def test_a_signal_that_comes_where_the_interpreter_ignores_what_is_raised_ends_it(name: str, status: int) -> None:
    code = GUARDED.replace("def work():\n    {body}\n", IGNORING.format(name=name))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1].endswith("All is safe.")) == (status, True), done.stderr
    assert "ignored" not in done.stderr


def test_a_signal_that_a_library_swallows_ends_it_and_what_it_closes_is_closed() -> None:
    body = (
        "import os, signal\n"
        "    try:\n"
        "        try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
        "        except BaseException: error = ImportError('initialization failed')\n"  # as an extension of C does
        "        time.sleep(60)\n"
        "    finally:\n"
        "        for _ in range(30): time.sleep(0.02)\n"  # longer than until it would be raised again
        "        print('closed')"
    )
    done = guarded(body)
    assert (done.returncode, done.stdout) == (143, "closed\n"), done.stderr


def test_a_thread_that_nothing_ends_keeps_no_process_that_is_to_end() -> None:
    code = GUARDED.format(
        body="import os, signal, threading; from trimtab.cli import exits; exits._END_S = 0.3; "
        "threading.Thread(target=time.sleep, args=(60,)).start(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 143


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_ends_it_cleanly_and_says_what_is_safe(number: signal.Signals, status: int) -> None:
    body = "try:\n        print('working', flush=True)\n        time.sleep(60)\n    finally:\n        print('closed')"
    process = subprocess.Popen(
        [sys.executable, "-c", GUARDED.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == "closed\n"
    assert "All is safe." in error
    assert "Traceback" not in error


def test_a_terminal_that_closes_says_so_twice_and_what_is_closed_then_is_closed() -> None:
    body = (
        "try:\n        print('working', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('closing', flush=True)\n        time.sleep(0.15)\n        print('closed')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", GUARDED.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for said in ("working\n", "closing\n"):
        assert process.stdout.readline() == said
        process.send_signal(signal.SIGHUP)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "closed\n")
    assert "All is safe." in error


def test_a_command_that_is_to_outlive_its_terminal_does() -> None:
    body = "print('working', flush=True)\n    time.sleep(0.15)\n    print('done')"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; children inherit it
    try:
        process = subprocess.Popen([sys.executable, "-c", GUARDED.format(body=body)], stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60)[0] == "done\n"
    assert process.returncode == 0


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.08, 0.15, 0.3])
def test_sigterm_while_it_starts_leaves_no_traceback(delay_s: float, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtab.cli", "init", "none.csv"], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    time.sleep(delay_s)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 143, 3)
    assert "Traceback" not in error


def test_a_reader_that_goes_away_is_no_error() -> None:
    body = "\n    for n in range(200_000): print('line', n)"
    process = subprocess.Popen(
        [sys.executable, "-c", GUARDED.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


def test_a_terminal_without_the_characters_shows_their_codes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARDED.format(body="print('größe'); raise Misuse('Ärger')")],
        capture_output=True,
        timeout=60,
        check=False,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert done.stdout == b"gr\\xf6\\xdfe\n"
    assert b"\\xc4rger" in done.stderr


@pytest.mark.fast
def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom trimtab.cli import main\nsys.argv = ['trimtab', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "new = set(sys.modules) - before\n"
        "tops = {name.partition('.')[0] for name in new} - set(sys.stdlib_module_names)\n"
        "print(sorted(tops))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['click', 'msgspec', 'trimtab', 'typing_extensions']"


OPENED = """
import sys
from trimtab.cli.group import trimtab
trimtab.main(sys.argv[1:], standalone_mode=False)
print(*sorted({'sklearn', 'scipy', 'skops', 'pandas', 'joblib', 'lightgbm', *LIGHTER} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("command", "lighter"), [("ledger", ["duckdb", "deltalake", "lmdb"]), ("status", []), ("versions", [])]
)
def test_a_question_loads_no_learning_library(command: str, lighter: list[str], tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text("import trimtab as tt\n")
    code = OPENED.replace("LIGHTER", repr(lighter))
    done = subprocess.run([sys.executable, "-c", code, command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_opening_a_project_loads_no_learning_library(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text("import trimtab as tt\n")
    code = (
        "import sys, trimtab as tt\nwith tt.open('.') as project:\n    project.status()\n"
        "print(*sorted({'sklearn', 'scipy', 'skops', 'pandas', 'joblib', 'lightgbm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def run_in_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What `trimtab` does in a shell, where it is called "t"; the last line of output is its status."""
    script = f't() {{ "{sys.executable}" -m trimtab.cli "$@"; }}\n{command}'
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=os.environ
    )


@pytest.mark.parametrize("verb", ["--help", "--version", "--version --json"])
@pytest.mark.parametrize(
    ("command", "status", "complaint"),
    [
        ("t {} >&-; echo $?", "0", ""),
        ("t {} >&- 2>&- <&-; echo $?", "0", ""),
        ("t {} | true; echo ${{PIPESTATUS[0]}}", "141", ""),
        ("t {} > /dev/full; echo $?", "5", "standard output: No space left on device."),
        ("t {} no-such-thing 2> /dev/full; echo $?", "0|2", ""),
    ],
)
def test_output_that_goes_nowhere_is_no_fault_of_the_program(
    tmp_path: Path, verb: str, command: str, status: str, complaint: str
) -> None:
    done = run_in_shell(command.format(verb), tmp_path)
    assert done.stdout.splitlines()[-1] in status.split("|"), (done.stdout, done.stderr)
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert "should not happen" not in done.stderr


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("PermissionError(13, 'Permission denied', '/x/y')", 5, "trimtab: /x/y: Permission denied."),
        ("NotADirectoryError(20, 'Not a directory', b'/x/y')", 2, "trimtab: /x/y: Not a directory."),
        ("FileNotFoundError(2, 'No such file or directory', '/x')", 3, "trimtab: /x: No such file"),
        ("OSError(5, 'Input/output error')", 5, "trimtab: a file or connection: Input/output error."),
    ],
)
def test_an_error_of_the_system_names_the_file(error: str, status: int, said: str) -> None:
    done = guarded(f"raise {error}")
    assert done.returncode == status
    assert done.stderr.startswith(said)
    assert "should not happen" not in done.stderr


def test_a_folder_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/b\xff"
    os.mkdir(folder)
    with open(folder + b"/project.py", "w") as project, open(folder + b"/trimtab.toml", "w"):
        project.write("import trimtab as tt\n")
    done = subprocess.run(
        [sys.executable, "-m", "trimtab.cli", "status"], cwd=folder, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert b"this path is not UTF-8, but must be" in done.stderr
    assert not os.path.exists(folder + b"/.trimtab")


def test_text_that_is_not_utf8_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("import trimtab as tt\n")
    (tmp_path / "trimtab.toml").write_text("")
    command = [sys.executable, "-m", "trimtab.cli", "freeze", "--why", b"\xff"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"'--why'" in done.stderr
    assert b"not UTF-8" in done.stderr
    assert not (tmp_path / ".trimtab").exists()
