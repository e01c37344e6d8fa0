"""Metrics of the process itself, with the usual names of Prometheus clients."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from trimtab.serving.observe.metrics import Metrics

_PROC = Path("/proc/self")
_BEGUN_S = time.time()  # used as the start time if there is no /proc


def show_process(metrics: Metrics) -> None:
    """Register metrics for processor time, memory, open files, threads and garbage collections of this process."""
    gauge, counted = metrics.gauge, metrics.counted
    counted("process_cpu_seconds_total", "Processor time, user and system.", (), lambda: {(): time.process_time()})
    gauge("process_resident_memory_bytes", "Resident memory.", (), lambda: _memory(1))
    gauge("process_virtual_memory_bytes", "Virtual memory.", (), lambda: _memory(0))
    gauge("process_open_fds", "Open files and connections.", (), _open_files)
    gauge("process_max_fds", "Limit of open files and connections.", (), _most_files)
    gauge("process_threads", "Threads of Python.", (), lambda: {(): threading.active_count()})
    begun_s = _begun_s()
    gauge("process_start_time_seconds", "When the process began, seconds since 1970.", (), lambda: {(): begun_s})
    labels = ("generation",)
    counted(
        "python_gc_collections_total", "Garbage collections by generation.", labels, lambda: _collections("collections")
    )
    counted(
        "python_gc_objects_collected_total",
        "Objects freed by garbage collections.",
        labels,
        lambda: _collections("collected"),
    )
    version = ".".join(map(str, sys.version_info[:3]))
    gauge("python_info", "1, with the running version of Python as a label.", ("version",), lambda: {(version,): 1})


def _memory(field: int) -> dict[tuple[str, ...], float]:
    with suppress(OSError):
        return {(): int((_PROC / "statm").read_text().split()[field]) * os.sysconf("SC_PAGE_SIZE")}
    return {}


def _open_files() -> dict[tuple[str, ...], float]:
    with suppress(OSError):
        return {(): len(os.listdir(_PROC / "fd"))}
    return {}


def _most_files() -> dict[tuple[str, ...], float]:
    try:
        import resource
    except ImportError:  # Windows
        return {}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return {} if most == resource.RLIM_INFINITY else {(): most}


def _begun_s() -> float:
    with suppress(OSError, ValueError, StopIteration):
        ticks = int((_PROC / "stat").read_text().rpartition(")")[2].split()[19])
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        return int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    return _BEGUN_S


def _collections(what: str) -> dict[tuple[str, ...], float]:
    return {(str(generation),): found[what] for generation, found in enumerate(gc.get_stats())}
