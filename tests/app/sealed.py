"""A process that runs commands in a folder that it cannot write: `sealed.py HOW FOLDER`, arguments in JSON on stdin.

HOW is what becomes of FOLDER first: `permission` (nobody may write), `mounted` (a file system of its own, read-only) or
`full` (one without a free byte). For each command its exit status, what it said and what it changed is printed as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

KEPT_BYTES = 6 << 20  # more than the project has


def mount(folder: Path) -> None:
    """Put a small file system with the same files in the place of `folder`, for this process and its children."""
    copy = folder.with_name(f"{folder.name}.copy")
    shutil.copytree(folder, copy)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={KEPT_BYTES}", "tmpfs", str(folder)], check=True)
    shutil.copytree(copy, folder, dirs_exist_ok=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def found(folder: Path) -> dict[str, str]:
    """Every file and folder, and a hash of what it holds."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.name != "ballast"
    }


def main(how: str, folder: Path) -> None:
    if how in ("mounted", "full"):
        mount(folder)
    if how == "mounted":
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    if how == "full":
        fill(folder)
    if how == "permission":
        for path in [folder, *folder.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
    os.chdir(folder)
    from trimtab.cli.group import trimtab

    commands = json.load(sys.stdin)
    for arguments in commands:
        before = found(folder)
        done = CliRunner().invoke(trimtab, arguments)
        told = {
            "status": done.exit_code,
            "said": done.stdout + done.stderr,
            "changed": sorted(set(before.items()) ^ set(found(folder).items())),
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main(sys.argv[1], Path(sys.argv[2]))
