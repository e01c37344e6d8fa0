"""Where a version was made: recorded beside it, never part of its address."""

from __future__ import annotations

import functools
import platform
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from trimtab.core.code import distribution_version

_PACKAGES = ("trimtab", "numpy", "scipy", "sklearn", "lightgbm", "skops")
_CPU_LEVELS = {"X86_V4": "avx512", "AVX512_SKX": "avx512", "X86_V3": "avx2", "AVX2": "avx2", "ASIMD": "asimd"}


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Python, packages, processor and commit at the time of training."""

    python: str
    packages: dict[str, str]
    cpu: str  # the widest instruction set NumPy found: transcendental functions differ between them in the last bit
    commit: str | None = None  # of the project's repository; None when it is in none


def current_environment(folder: Path | None = None) -> Environment:
    """This process's environment; `folder` is where the project's repository is looked for.

    >>> sorted(current_environment().packages)[-1]
    'trimtab'
    """
    return Environment(
        python=platform.python_version(),
        packages=dict(_packages()),
        cpu=cpu_level(),
        commit=None if folder is None else git_commit(folder),
    )


@functools.cache
def _packages() -> dict[str, str]:
    found = {name: distribution_version(name) for name in _PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


@functools.cache
def cpu_level() -> str:
    """The widest instruction set that NumPy uses on this machine: avx512, avx2, asimd or baseline."""
    import numpy as np

    built: Any = np.show_config(mode="dicts")
    simd = built.get("SIMD Extensions", {})
    present = {*simd.get("baseline", []), *simd.get("found", [])}
    return next((level for name, level in _CPU_LEVELS.items() if name in present), "baseline")


def git_commit(folder: Path) -> str | None:
    """The commit that is checked out in `folder`; None outside a repository or without git."""
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None
