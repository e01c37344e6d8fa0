"""Executors run tasks, either in a thread of this process or in a child process with low priority."""

from __future__ import annotations

import contextlib
import contextvars
import copy
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

from trimtab.core.closing import Closing
from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, Unavailable
from trimtab.run.events import Cancelled, Event, Line, Progress, StepBegan, StepEnded

T = TypeVar("T")
_POLL_S = 0.2  # time between two checks for cancellation
_GRACE_S = 2.0  # how long a child process may take to end by itself
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
    """The name of a function, and its argument. Both can be sent to another process."""

    function: str  # "package.module:name" of a function that takes the argument and a `Workplace`, and returns bytes
    argument: bytes
    about: str = ""  # a text for messages, e.g. "training of 'buyer'"
    native: str = ""  # which code may crash the process, e.g. "the estimator's library"

    def call(self, place: Workplace) -> bytes:
        """Run the task in the current thread."""
        module, _, name = self.function.partition(":")
        result: bytes = getattr(importlib.import_module(module), name)(self.argument, place)
        return result


class Workplace:
    """Given to a running task: a function that receives its events, and objects that are kept between tasks.

    Args:
        send: Receives the events of the task.
        kept: Objects by name that exist from the beginning.
    """

    def __init__(self, send: Callable[[Event], None], kept: dict[str, Any] | None = None) -> None:
        self.send = send
        self.cancelled: str | None = None  # the reason if the task was cancelled
        self._kept = dict(kept or {})
        self._stack = ExitStack()

    def check(self) -> None:
        """Raise `Cancelled` if the task was cancelled."""
        if self.cancelled is not None:
            raise Cancelled(self.cancelled)

    def emit(self, event: Event) -> None:
        """Send an event. Raise `Cancelled` if the task was cancelled."""
        self.check()
        self.send(event)

    def progress(self, done: float, total: float) -> None:
        """Report how much of the running step is done."""
        self.emit(Progress(done, total))

    def of_task(self, send: Callable[[Event], None]) -> Workplace:
        """Return a workplace for one more task, with the same kept objects."""
        found = copy.copy(self)
        found.send, found.cancelled = send, None
        return found

    def keep(self, name: str, make: Callable[[ExitStack], T]) -> T:
        """Return the object that is kept under a name. If there is none, make and keep it.

        `close` closes the resources that `make` puts on the exit stack.
        """
        if name not in self._kept:
            self._kept[name] = make(self._stack)
        found: T = self._kept[name]
        return found

    def close(self) -> None:
        """Close the kept objects."""
        self._stack.close()


class Executor(Protocol):
    """Runs tasks, one at a time. Objects that tasks keep exist until `close` is called."""

    def run(self, task: Task, *, on_event: Callable[[Event], None], cancelled: Callable[[], str | None]) -> bytes:
        """Run a task and return its result.

        `on_event` and `cancelled` are called in the caller's thread.

        Args:
            on_event: Receives the events of the task.
            cancelled: Called every 0.2 s. Returns why the task must end, or None.

        Raises:
            Cancelled: The task was cancelled, and it has ended.
            TaskFailed: A task in another process raised an error that is not one of trimtab. (A `ThreadExecutor`
                raises the original error instead.)
            Unavailable: The process that ran the task died.
        """
        ...

    def close(self) -> None: ...


class TaskFailed(RuntimeError):
    """A task in another process raised an unexpected error. The message contains the traceback."""


class ThreadExecutor:
    """Runs tasks in a thread of this process. A cancelled task ends at its next event.

    Args:
        kept: Objects by name that tasks find in their `Workplace`.
    """

    def __init__(self, kept: dict[str, Any] | None = None) -> None:
        self._place = Workplace(lambda event: None, kept)

    def run(self, task: Task, *, on_event: Callable[[Event], None], cancelled: Callable[[], str | None]) -> bytes:
        ended: list[bytes | BaseException] = []
        # each task has its own queue, because the task of an interrupted caller may still be running
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        place = self._place.of_task(events.put)

        def work() -> None:
            try:
                with _logged(events.put):
                    ended.append(task.call(place))
            except BaseException as error:  # raised again below, in the caller's thread
                ended.append(error)
            events.put(None)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="trimtab-task", daemon=True)
        thread.start()
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    event = events.get(timeout=_POLL_S)
                    if event is None:
                        break
                    on_event(event)
                place.cancelled = place.cancelled or cancelled()
        except BaseException:
            place.cancelled = "Its caller was interrupted."
            raise
        if isinstance(ended[0], BaseException):
            raise ended[0]
        return ended[0]

    def close(self) -> None:
        """Close the objects that tasks have kept."""
        self._place.close()


class ProcessExecutor(Closing):
    """Runs tasks in one child process, which is started when the first task arrives.

    The child is a new interpreter, not a fork, so threads of this process do not affect it. It has a low priority. It
    ends when this process ends in any way, and when a task is cancelled or raises an error that is not one of trimtab.

    Args:
        nice: How much to increase the child's nice level. With 10, a busy server gets nearly all of the processor.
        threads: The number of threads that numerical libraries may use in the child; None: as many as here.
    """

    def __init__(self, *, nice: int = 10, threads: int | None = 1) -> None:
        self._nice = nice
        self._threads = threads
        self._child: subprocess.Popen[bytes] | None = None
        self._events: IO[bytes] | None = None

    def start(self, module: str) -> None:
        """Start the child process without waiting for it, and let it import a module that its first task will need.

        Raises:
            Unavailable: The process cannot be started.
        """
        self._started(module)

    def run(self, task: Task, *, on_event: Callable[[Event], None], cancelled: Callable[[], str | None]) -> bytes:
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
                        on_event(event)
        except BaseException as error:
            if not isinstance(error, _ERRORS) or isinstance(error, Cancelled):
                self.end()  # the child's work is no longer needed
            raise
        raise Unavailable(_death(task, step, self.end()))

    def close(self) -> None:
        """Let the child close the objects that tasks have kept, and let it end."""
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_GRACE_S)
        self.end()

    def _started(self, module: str = "") -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self._child is None or self._events is None or self._child.poll() is not None:
            self.end()
            reading, writing = os.pipe()
            limits = {} if self._threads is None else dict.fromkeys(_THREAD_LIMITS, str(self._threads))
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "trimtab.run.worker", str(writing), str(self._nice), module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    env={**os.environ, **limits, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,  # Ctrl-C must reach only this process, which ends the child
                )
            except OSError as error:
                os.close(reading)
                raise Unavailable(f"a child process cannot be started ({error}). Free memory.") from error
            finally:
                os.close(writing)
            self._events = os.fdopen(reading, "rb", buffering=0)
            assert self._child.stdout is not None
            os.set_blocking(self._child.stdout.fileno(), False)
        return self._child, self._events

    def _send(self, child: subprocess.Popen[bytes], task: Task) -> None:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the child has died, which the reader of its events will notice
            child.stdin.write(framed(msgspec.msgpack.encode(task)))
            child.stdin.flush()

    def _messages(self, child: subprocess.Popen[bytes], events: IO[bytes], cancelled: Callable[[], str | None]) -> Any:
        """Yield the messages of the child (events, then a result or failure) and its printed lines.

        This ends when the child closes its side of the pipe.
        """
        assert child.stdout is not None
        frames, printed = Frames(), Printed()
        with selectors.DefaultSelector() as selector:
            selector.register(events, selectors.EVENT_READ)
            selector.register(child.stdout, selectors.EVENT_READ)
            checked_s = time.monotonic()
            while True:
                ready = {key.fileobj for key, _ in selector.select(_POLL_S)}
                yield from printed.read(child.stdout)
                if printed.over and child.stdout in ready:
                    selector.unregister(child.stdout)
                if events in ready:
                    data = os.read(events.fileno(), 1 << 16)
                    if not data:
                        return
                    yield from printed.read(child.stdout)  # lines that were printed before the task ended
                    for frame in frames.add(data):
                        yield msgspec.msgpack.decode(frame, type=Message)
                if time.monotonic() - checked_s >= _POLL_S:
                    checked_s, why = time.monotonic(), cancelled()
                    if why is not None:
                        raise Cancelled(why)

    def end(self) -> int:
        """End the child at once, by force if necessary, and return its exit status.

        Unlike `close`, it does not let the child close what tasks have kept.
        """
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
    """The result of a task."""

    data: bytes


class Failure(msgspec.Struct, frozen=True, tag="failure", array_like=True):
    """The error that a task raised."""

    kind: str
    message: str
    traceback: str


Message = Event | Result | Failure


def failure_of(error: BaseException, traceback: str) -> Failure:
    """Return the message that tells another process about an error."""
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
    """Return an error message for a task whose process has ended with a status. It names the running step."""
    what = (task.about or task.function) + ("" if step is None else f", step {step!r}")
    name = next((f" ({known.name})" for known in _CRASHES if known == -status), "")
    how = f"was killed by signal {-status}{name}" if status < 0 else f"ended with status {status}"
    text = f"{what}: its process {how} before it was done."
    if status == -signal.SIGKILL:
        return f"{text} The system may have run out of memory. Try again."
    if not task.native or (status < 0 and not name):  # something outside has probably ended the process
        return f"{text} Try again."
    return (
        f"{text} Native code failed or ended the process, most likely {task.native}: try fewer rows, other parameters "
        "or another version of it. The log lines of the run may say more."
    )


def framed(data: bytes) -> bytes:
    """Return a message with its length before it, in 4 bytes."""
    return len(data).to_bytes(4, "little") + data


class Frames:
    """Splits a stream of bytes into the messages that `framed` has encoded."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, data: bytes) -> list[bytes]:
        """Add bytes of the stream, and return the messages that are complete now."""
        self._rest += data
        found = []
        while len(self._rest) >= 4 and len(self._rest) >= (end := 4 + int.from_bytes(self._rest[:4], "little")):
            found.append(self._rest[4:end])
            self._rest = self._rest[end:]
        return found


class Printed:
    """Splits the output of a child process into lines."""

    def __init__(self) -> None:
        self.over = False  # whether the child has closed its side of the pipe
        self._rest = b""

    def read(self, stream: IO[bytes]) -> list[Line]:
        """Return the complete lines that are available now. Reading from the stream must not block."""
        lines: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(stream.fileno(), 1 << 16):
                *whole, self._rest = (self._rest + data).split(b"\n")
                lines += whole
            self.over = True
        return [Line(line.decode(errors="replace")) for line in lines]


@contextlib.contextmanager
def _logged(send: Callable[[Event], None]) -> Any:
    """In the block, also send the log messages of this thread as lines."""
    me, handler = threading.get_ident(), logging.Handler(logging.INFO)
    handler.addFilter(lambda record: record.thread == me)
    handler.emit = lambda record: send(Line(record.getMessage()))  # type: ignore[method-assign]  # a handler that is used only here
    logger = logging.getLogger("trimtab")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
