"""CPU time of a line of the access log, of a prediction with all its stages, in the thread that writes it.

The floor is the encoder's own work: the same fields from a dictionary that is there already, and the same writing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from _telling import cpu_us, requests

from trimtab.serving.http.requests.access_log import AccessLog
from trimtab.serving.http.requests.request_record import RequestRecord

NAME = "access_log"
TARGET = "ratio <= 4"
UNIT = "us"
BETTER = "lower"


class State(msgspec.Struct):
    """The log, its requests, and the same as dictionaries."""

    log: AccessLog
    path: Path
    exchanges: list[RequestRecord]
    said: dict[int, Any]  # by the exchange's identity


def setup(folder: Path) -> State:
    log = AccessLog(folder / "log")
    exchanges = requests(log)
    log.write(exchanges, 1_700_000_000_000_000_000)
    lines = (folder / "log").read_text().splitlines()
    said = {id(one): json.loads(line) for one, line in zip(exchanges, lines, strict=True)}
    return State(log, folder / "log", exchanges, said)


def ours(state: State) -> float:
    os.truncate(state.path, 0)
    return cpu_us(lambda some: state.log.write(some, 1_700_000_000_000_000_000), state.exchanges)


def floor(state: State) -> float:
    encode, said = msgspec.json.Encoder().encode, state.said
    with state.path.with_name("floor").open("wb", buffering=0) as file:

        def take(some: Sequence[RequestRecord]) -> None:
            file.write(b"\n".join([encode(said[id(one)]) for one in some]) + b"\n")

        return cpu_us(take, state.exchanges)
