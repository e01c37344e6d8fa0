"""The environment in which a version was made. A version records it, but its id does not depend on it."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from trimtab.core.expressions.code import DISTRIBUTIONS, distribution_version
from trimtab.training.runtimes.table import ROWS

_PACKAGES = tuple(dict.fromkeys(("trimtab", "numpy", "scipy", *(name for row in ROWS for name in row.packages))))
_READ_WITH = {row.name: tuple(row.packages) for row in ROWS}
_NUMPY_SETTINGS = {"NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"}
_AVX2 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"])
_FLAGS = {"avx512": _AVX2 | frozenset(["avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"]), "avx2": _AVX2}
_CPU_LEVELS = {"X86_V4": "avx512", "AVX512_SKX": "avx512", "X86_V3": "avx2", "AVX2": "avx2", "ASIMD": "asimd"}


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Python, packages, processor and commit at the time of training."""

    python: str
    packages: dict[str, str]
    cpu: str  # the widest instruction set that NumPy found; the last bits of results such as exp depend on it
    commit: str | None = None  # the commit of the project's repository; None: unknown (no repository, or no Git)
    system: str = ""  # for example "Linux"; "": the version is older than this field
    architecture: str = ""  # for example "x86_64" or "aarch64"; "": the version is older than this field


def current_environment(folder: Path | None = None) -> Environment:
    """Return the environment of this process. The project's repository is searched for from `folder`.

    >>> "trimtab" in current_environment().packages
    True
    """
    return Environment(
        python=platform.python_version(),
        packages=dict(_packages()),
        cpu=cpu_level(),
        commit=None if folder is None else git_commit(folder),
        system=platform.system(),
        architecture=platform.machine(),
    )


def what_matters(there: Environment, here: Environment, runtime: str) -> list[str]:
    """Return the differences between two environments that may change scores, or make loading a version fail.

    These are differences of the processor, the architecture, the major version of the library that reads the model,
    and, for pickles, the Python version. Missing libraries are not listed, because loading the model reports them.

    >>> here = current_environment()
    >>> what_matters(here, here, "lightgbm")
    []
    """
    out = []
    for name in _READ_WITH.get(runtime, ()):
        before, now = there.packages.get(name), here.packages.get(name)
        if before is not None and now is not None and _major(before) != _major(now):
            out.append(f"{name} {before} -> {now}")
    for what, before, now in (
        ("architecture", there.architecture, here.architecture),
        ("processor", there.cpu, here.cpu),
    ):
        if before and before != now:
            out.append(f"{what} {before} -> {now}")
    if runtime == "pickle" and there.python.split(".")[:2] != here.python.split(".")[:2]:
        out.append(f"Python {there.python} -> {here.python}")
    return out


def absent_library(runtime: str) -> str | None:
    """Return the first module that is needed to read a runtime's models but is not installed; None: none is missing.

    >>> absent_library("sklearn") is None
    True
    """
    return next((name for name in _READ_WITH.get(runtime, ()) if find_spec(name) is None), None)


def _major(version: str) -> str:
    return version.partition(".")[0]


@functools.cache
def _packages() -> dict[str, str]:
    found = {name: _version(name) for name in _PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


def _version(package: str) -> str | None:
    """Return the version of an installed package.

    The usual package name is tried first, because searching all packages is slow.
    """
    for name in DISTRIBUTIONS.get(package, (package,)):
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        # `metadata.version` would parse the whole file, with the package's long description
        found = re.search(r"^Version: (\S+)", installed.read_text("METADATA") or "", re.MULTILINE)
        return installed.version if found is None else found[1]
    return distribution_version(package) if find_spec(package) is not None else None


@functools.cache
def cpu_level() -> str:
    """Return the widest instruction set that NumPy uses on this machine: avx512, avx2, asimd or baseline.

    On Linux with an x86 processor, it is read from /proc/cpuinfo, so that NumPy need not be loaded. It is read from
    NumPy in three cases: on other systems; if NumPy is already loaded; and if NumPy's settings choose instructions.
    """
    flags = None if os.environ.keys() & _NUMPY_SETTINGS else _processor_flags()
    if flags is None or "numpy" in sys.modules:
        return _numpy_level()
    return next((level for level, needed in _FLAGS.items() if needed <= flags), "baseline")


def _numpy_level() -> str:
    import numpy as np

    built: Any = np.show_config(mode="dicts")
    simd = built.get("SIMD Extensions", {})
    present = {*simd.get("baseline", []), *simd.get("found", [])}
    return next((level for name, level in _CPU_LEVELS.items() if name in present), "baseline")


def _processor_flags() -> frozenset[str] | None:
    """Return the features of an x86 processor by Linux's names; None if they cannot be read."""
    if platform.machine() != "x86_64":
        return None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), None)
    return None if flags is None else frozenset(flags.split())


def git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in `folder`; None if there is no repository, or Git is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
