"""Run all benchmarks, or those named, print the table and write `build/bench.json`.

    python benchmarks/run.py [--repeats N] [NAME ...]
    python benchmarks/run.py --profile NAME ...    where our side of it spends its time, function by function
    python benchmarks/run.py --peers PYTHON NAME ...    measure other products too, in that interpreter's environment

Each benchmark runs in a process of its own, one after the other, so that none meets the threads, caches or memory that
another left behind. The file holds the results of this run only. Exit status 1: a benchmark did not finish.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import harness
import msgspec

BUILD = harness.HERE.parent / "build"
TABLE = "{:<18} {:>12} {:>12} {:>7}  {:<12} {:<16} {}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed as a ratio to the floor.")
    parser.add_argument("names", nargs="*", help="benchmarks to run (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of ours and floor (at least 3)")
    parser.add_argument("--profile", action="store_true", help="print a Python profile of our side instead")
    parser.add_argument(
        "--peers", type=Path, help="the interpreter of the environment in which the peers are installed"
    )
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # the child: one name, its result to this file
    args = parser.parse_args()
    if args.into:
        found = harness.measure(harness.load(args.names[0]), repeats=args.repeats, peers_python=args.peers)
        args.into.write_bytes(msgspec.json.encode(found))
        return 0
    if args.profile:
        for name in args.names or harness.names():
            print(harness.profile(harness.load(name)))
        return 0
    return run(args.names or harness.names(), args.repeats, args.peers)


def run(names: list[str], repeats: int, peers: Path | None) -> int:
    BUILD.mkdir(exist_ok=True)
    print(TABLE.format("name", "ours", "floor", "ratio", "target", "unit", ""))
    results, failed = [], []
    for name in names:
        harness.load(name)  # a wrong name or a wrong file stops here, before anything is measured
    for name in names:
        result = in_own_process(name, repeats, peers)
        if result is None:
            failed.append(name)
            print(f"{name:<18} did not finish: see its traceback above", flush=True)
            continue
        results.append(result)
        print(line(result), flush=True)
        for what, figure in (result.more | result.peers).items():
            print(f"{'':<18} {figure:>12,.4g} {what}", flush=True)
    text = msgspec.json.format(msgspec.json.encode(results), indent=2)
    (BUILD / "bench.json").write_bytes(text + b"\n")
    missed = [result.name for result in results if not result.met]
    print(f"\n{len(results)} measured ({repeats} repeats), {len(missed)} missed their target, {len(failed)} failed.")
    return 1 if failed else 0


def in_own_process(name: str, repeats: int, peers: Path | None) -> harness.Result | None:
    into = BUILD / f"bench-{name}.json"
    command = [sys.executable, __file__, name, "--repeats", str(repeats), "--into", str(into)]
    command += [] if peers is None else ["--peers", str(peers)]
    try:
        if subprocess.run(command, check=False).returncode:
            return None
        return msgspec.json.decode(into.read_bytes(), type=harness.Result)
    finally:
        into.unlink(missing_ok=True)


def line(result: harness.Result) -> str:
    floor = "-" if result.floor is None else f"{result.floor:,.4g}"
    ratio = "-" if result.ratio is None else f"{result.ratio:.2f}"
    met = "met" if result.met else "MISSED"
    return TABLE.format(result.name, f"{result.ours:,.4g}", floor, ratio, result.target, result.unit, met)


if __name__ == "__main__":
    sys.exit(main())
