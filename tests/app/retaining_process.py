"""A process that pushes events and retains until it is killed: `retaining_process.py FOLDER FIRST`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from trimtab.app.project import open_project


def run(folder: Path, number: int) -> None:
    with open_project(folder, environment={}) as project:
        while True:
            for _ in range(5):
                at_us = time.time_ns() // 1000 - 1
                project.push(
                    "readings", [{"id": f"r{number}", "site": "north", "level": 0.1 * number, "read_at": at_us}]
                )
                print(number, flush=True)
                number += 1
            project.retain()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
