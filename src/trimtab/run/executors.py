"""Executors: where a task runs. In a thread of this process, or in a child process that gives way to others."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Any, Protocol, TypeVar

import msgspec

from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.run.events import Cancelled, Event, Line, Progress, StepBegan, StepEnded

T = TypeVar("T")
_POLL_S = 0.2  # between two looks whether the task is to end
_GRACE_S = 2.0  # for a child that was asked to end
_THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
)
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_ERRORS = (Cancelled, Misuse, NotFound, Conflict, Unavailable, Corrupt)


class Task(msgspec.Struct, frozen=True):
    """A function by its name, and what it is given: both can be sent to another process or machine."""

    function: str  # "package.module:name", called with the argument and a `Workplace`; it gives bytes
    argument: bytes
    about: str = ""  # what it is to people, e.g. "training of 'buyer'"
    native: str = ""  # whose code may end its process, e.g. "the estimator's library"

    def call(self, place: Workplace) -> bytes:
        """Do it here and now."""
        module, _, name = self.function.partition(":")
        result: bytes = getattr(importlib.import_module(module), name)(self.argument, place)
        return result


class Workplace:
    """What a task finds where it runs: somebody who listens, and things kept from one task to the next.

    Args:
        tell: Hears of everything.
        kept: Things that are there from the beginning, by name.
    """

    def __init__(self, tell: Callable[[Event], None], kept: dict[str, Any] | None = None) -> None:
        self.tell = tell
        self.cancelled: str | None = None  # why the task is to end
        self._kept = dict(kept or {})
        self._stack = ExitStack()

    def check(self) -> None:
        """Raise `Cancelled` when the task is to end."""
        if self.cancelled is not None:
            raise Cancelled(self.cancelled)

    def hear(self, event: Event) -> None:
        """Pass on an event, unless the task is to end."""
        self.check()
        self.tell(event)

    def progress(self, done: float, total: float) -> None:
        """Say how much of the step under way is done."""
        self.hear(Progress(done, total))

    def keep(self, name: str, make: Callable[[ExitStack], T]) -> T:
        """What was kept under this name, made now when it is not there; what it puts on the stack is closed last."""
        if name not in self._kept:
            self._kept[name] = make(self._stack)
        found: T = self._kept[name]
        return found

    def close(self) -> None:
        """Close what was kept."""
        self._stack.close()


class Executor(Protocol):
    """Runs tasks, one at a time; what they keep lives until `close`."""

    def run(self, task: Task, *, hear: Callable[[Event], None], cancelled: Callable[[], str | None]) -> bytes:
        """What a task gives. `hear` and `cancelled` are called in the caller's thread.

        Args:
            task: What to do.
            hear: Gets everything that the task tells.
            cancelled: Asked now and then: why the task is to end, None when it is not.

        Raises:
            Cancelled: It was to end, and has.
            TaskFailed: It raised something that is none of trimtab's errors.
            Unavailable: Its process died.
        """
        ...

    def close(self) -> None: ...


class TaskFailed(RuntimeError):
    """A task in another process raised something unexpected; the message has its traceback."""


class ThreadExecutor:
    """Runs tasks in a thread of this process. One that is to end does so when it tells something next.

    Args:
        kept: What tasks find at their `Workplace`.
    """

    def __init__(self, kept: dict[str, Any] | None = None) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._place = Workplace(self._events.put, kept)

    def run(self, task: Task, *, hear: Callable[[Event], None], cancelled: Callable[[], str | None]) -> bytes:
        ended: list[bytes | BaseException] = []

        def work() -> None:
            try:
                with _logged(self._events.put):
                    ended.append(task.call(self._place))
            except BaseException as error:  # raised again below, in the thread that waits
                ended.append(error)
            self._events.put(None)

        self._place.cancelled = None
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="trimtab-task", daemon=True)
        thread.start()
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    event = self._events.get(timeout=_POLL_S)
                    if event is None:
                        break
                    hear(event)
                self._place.cancelled = self._place.cancelled or cancelled()
        except BaseException:
            self._place.cancelled = "Whoever waited for it went away."
            raise
        if isinstance(ended[0], BaseException):
            raise ended[0]
        return ended[0]

    def close(self) -> None:
        """Close what tasks have kept."""
        self._place.close()


class ProcessExecutor:
    """Runs tasks in one child process, started at the first of them.

    The child is a new interpreter, so threads of this process do not matter; it gives way to other processes, ends
    when this process dies, and is ended when a task is cancelled.

    Args:
        nice: Added to the child's nice level: 10 lets a server beside it have nearly all it asks for.
        threads: How many threads the numerical libraries may use in it.
    """

    def __init__(self, *, nice: int = 10, threads: int = 1) -> None:
        self._nice = nice
        self._threads = threads
        self._child: subprocess.Popen[bytes] | None = None
        self._events: IO[bytes] | None = None

    def run(self, task: Task, *, hear: Callable[[Event], None], cancelled: Callable[[], str | None]) -> bytes:
        child, events = self._started()
        step: str | None = None
        try:
            self._send(child, task)
            for message in self._messages(child, events, cancelled):
                match message:
                    case Result(data=data):
                        return data
                    case Failure():
                        raise _raised(message)
                    case event:
                        step = event.name if isinstance(event, StepBegan) else step
                        step = None if isinstance(event, StepEnded) else step
                        hear(event)
        except BaseException as error:
            if not isinstance(error, _ERRORS) or isinstance(error, Cancelled):
                self._end()  # whatever it is at is not wanted any more
            raise
        raise Unavailable(_death(task, step, self._end()))

    def close(self) -> None:
        """Let the child close what tasks have kept, and end."""
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_GRACE_S)
        self._end()

    def _started(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self._child is None or self._events is None or self._child.poll() is not None:
            self._end()
            reading, writing = os.pipe()
            limits = dict.fromkeys(_THREAD_LIMITS, str(self._threads))
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "trimtab.run.worker", str(writing), str(self._nice)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    env={**os.environ, **limits, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,  # Ctrl-C is for this process, which then ends the child
                )
            except OSError as error:
                os.close(reading)
                raise Unavailable(f"a process for training cannot be started ({error}). Free memory.") from error
            finally:
                os.close(writing)
            self._events = os.fdopen(reading, "rb", buffering=0)
            assert self._child.stdout is not None
            os.set_blocking(self._child.stdout.fileno(), False)
        return self._child, self._events

    def _send(self, child: subprocess.Popen[bytes], task: Task) -> None:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; the reader sees that
            child.stdin.write(framed(msgspec.msgpack.encode(task)))
            child.stdin.flush()

    def _messages(self, child: subprocess.Popen[bytes], events: IO[bytes], cancelled: Callable[[], str | None]) -> Any:
        """What the child tells and prints, until it closes its end."""
        assert child.stdout is not None
        frames, printed = Frames(), Printed()
        with selectors.DefaultSelector() as selector:
            selector.register(events, selectors.EVENT_READ)
            selector.register(child.stdout, selectors.EVENT_READ)
            asked_s = time.monotonic()
            while True:
                ready = {key.fileobj for key, _ in selector.select(_POLL_S)}
                yield from printed.read(child.stdout)
                if printed.over and child.stdout in ready:
                    selector.unregister(child.stdout)
                if events in ready:
                    data = os.read(events.fileno(), 1 << 16)
                    if not data:
                        return
                    yield from printed.read(child.stdout)  # what it printed before it said that it is done
                    for frame in frames.add(data):
                        yield msgspec.msgpack.decode(frame, type=Message)
                if time.monotonic() - asked_s >= _POLL_S:
                    asked_s, why = time.monotonic(), cancelled()
                    if why is not None:
                        raise Cancelled(why)

    def _end(self) -> int:
        """End the child, however it takes it; its exit status."""
        child, self._child = self._child, None
        events, self._events = self._events, None
        if events is not None:
            events.close()
        if child is None:
            return 0
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
        status = child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return status


class Result(msgspec.Struct, frozen=True, tag="result", array_like=True):
    """What a task gave."""

    data: bytes


class Failure(msgspec.Struct, frozen=True, tag="failure", array_like=True):
    """What a task raised."""

    kind: str
    message: str
    traceback: str


Message = Event | Result | Failure


def failure_of(error: BaseException, traceback: str) -> Failure:
    """An error as it is sent to another process."""
    kind = next((known.__name__ for known in _ERRORS if isinstance(error, known)), type(error).__name__)
    return Failure(kind, str(error), traceback)


def _raised(failure: Failure) -> Exception:
    known = {error.__name__: error for error in _ERRORS}.get(failure.kind)
    if known is None:
        return TaskFailed(f"{failure.kind}: {failure.message}\n{failure.traceback}")
    error = known(failure.message)
    error.add_note(failure.traceback)
    return error


def _death(task: Task, step: str | None, status: int) -> str:
    """What to say of a task whose process ended with a status, in a step if one was under way."""
    what = (task.about or task.function) + ("" if step is None else f", step {step!r}")
    name = next((f" ({known.name})" for known in _CRASHES if known == -status), "")
    how = f"was killed by signal {-status}{name}" if status < 0 else f"ended with status {status}"
    said = f"{what}: its process {how} before it was done."
    if status == -signal.SIGKILL:
        return f"{said} The system may have run out of memory. Try again."
    if not task.native or (status < 0 and not name):  # somebody ended it
        return f"{said} Try again."
    return (
        f"{said} It happened in native code or by its own exit, most likely of {task.native}: try fewer rows, other "
        "parameters or another version of it. The lines of the run may say more."
    )


def framed(data: bytes) -> bytes:
    """A message with its length before it."""
    return len(data).to_bytes(4, "little") + data


class Frames:
    """Cuts a stream into the messages that `framed` made."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, data: bytes) -> list[bytes]:
        """Take in more of the stream; the messages that are whole now."""
        self._rest += data
        found = []
        while len(self._rest) >= 4 and len(self._rest) >= (end := 4 + int.from_bytes(self._rest[:4], "little")):
            found.append(self._rest[4:end])
            self._rest = self._rest[end:]
        return found


class Printed:
    """The lines of what a child prints."""

    def __init__(self) -> None:
        self.over = False  # the child has closed its end
        self._rest = b""

    def read(self, stream: IO[bytes]) -> list[Line]:
        """The lines that are there by now; the stream does not block."""
        lines: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(stream.fileno(), 1 << 16):
                *whole, self._rest = (self._rest + data).split(b"\n")
                lines += whole
            self.over = True
        return [Line(line.decode(errors="replace")) for line in lines]


@contextlib.contextmanager
def _logged(tell: Callable[[Event], None]) -> Any:
    """Whatever this thread logs is told as lines, too."""
    me, handler = threading.get_ident(), logging.Handler(logging.INFO)
    handler.addFilter(lambda record: record.thread == me)
    handler.emit = lambda record: tell(Line(record.getMessage()))  # type: ignore[method-assign]  # a handler of one use
    logger = logging.getLogger("trimtab")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
