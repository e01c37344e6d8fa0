"""A process that reads files, named line by line: `model FORMAT PATH` or `file PATH`; it says what came of each."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from trimtab.core.errors import TrimtabError
from trimtab.events.definitions import Source
from trimtab.events.files.files import read_rows
from trimtab.registry.transfer.importing import FoundModel, ModelProcess
from trimtab.run import ProcessExecutor
from trimtab.training.runtimes.formats import ModelFile
from trimtab.training.runtimes.table import runtime_named

SOURCE = Source(name="readings", time="read_at", columns={"site": "str", "level": "float", "read_at": "time"})
NAMES = ("a", "b")


def read(kind: str, *given: str) -> str:
    path = Path(given[-1])
    if kind == "file":
        return f"{read_rows(path, SOURCE, on_error='quarantine').columns.rows} rows"
    data = path.read_bytes()
    with ProcessExecutor(nice=0) as executor:
        process = ModelProcess(FoundModel(path=path, format=given[0], data=data, kind=given[0]), executor)
        looked = process.inspect(ModelFile(format=given[0], data=data, probability=True, names=NAMES))
    runtime_named(looked.runtime).load(looked.data)
    return looked.kind


def main() -> None:
    for name in ("lightgbm", "xgboost", "onnx"):
        runtime_named(name)  # its library is no growth of the first file that gets so far
    for line in sys.stdin:
        try:
            said = read(*line.split())
        except TrimtabError as error:
            said = f"{type(error).__name__}: {str(error)[:300]!r}"
        gc.collect()
        print(said, flush=True)


if __name__ == "__main__":
    main()
