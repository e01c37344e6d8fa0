"""End a command: the exit status for each kind of error, and the messages."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click
import msgspec

from trimtab.core.errors import Conflict, Corrupt, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.urls import mask_url
from trimtab.run.signals import ENDING, caught

FAILED = 1  # for example: a check has found a problem, or a version was refused; see the help of each command
UNEXPECTED = 70
STATUS_BY_ERROR: dict[type[TrimtabError], int] = {Misuse: 2, NotFound: 3, Conflict: 4, Unavailable: 5, Corrupt: 6}
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # 128 plus the number of the signal, as in shells
_OF_NAMES = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
_AGAIN_S = 0.1  # after a signal, the time until its exception is raised again if it got lost, see `Terminated`
_END_S = 5.0  # if a signal stopped the command, the process is ended by force after this time


class Terminated(BaseException):
    """Raised when SIGTERM or SIGHUP arrives. Like KeyboardInterrupt, it passes through every `with` and `finally`.

    It may get lost in a `__del__`, in a callback of the interpreter, or in a C library that raises another error. Then
    it is raised again a little later.
    """


class Manner:
    """The settings of this run: in which form it prints, and how it ends. click keeps this object as `ctx.obj`."""

    def __init__(self) -> None:
        self.debug = False
        self.json = False
        self.project: str | None = None
        self.safe = "Nothing was changed."  # printed if the command is interrupted
        # if set, ends the process at once, without waiting for threads
        self.end: Callable[[int], object] | None = None


def guarded(work: Callable[[], object], manner: Manner) -> int:
    """Do `work`, and return the exit status. An exception is printed as a line on standard error."""
    status = _guarded(work, manner)
    if manner.end is not None:
        manner.end(status)
    return status


def _guarded(work: Callable[[], object], manner: Manner) -> int:
    _print_anything()
    try:
        _open_closed_streams()
        with _raised_again(), caught(_terminated, (signal.SIGTERM, signal.SIGHUP)):
            done = work()
            sys.stdout.flush()
            return done if isinstance(done, int) else 0
    except BaseException as error:  # the outermost handler reports every error
        return _ended(error, manner)


def end_in_time(status: object) -> None:
    """If a signal stopped the command, make sure that the process ends within a few seconds.

    Call this last. At its end, the interpreter waits for threads, and nothing else ends a thread that was started just
    before the signal.
    """
    if status not in (INTERRUPTED, TERMINATED):
        return

    def end() -> None:
        time.sleep(_END_S)
        os._exit(int(str(status)))

    with suppress(RuntimeError):  # the operating system allows no more threads
        threading.Thread(target=end, name="trimtab-end", daemon=True).start()


def status_of(error: BaseException) -> int:
    """Return the exit status for an error. docs/cli.md lists them."""
    if isinstance(error, Terminated):
        return TERMINATED
    if isinstance(error, RuntimeError) and "Query interrupted" in str(error):
        return INTERRUPTED  # while a query is running, DuckDB turns Ctrl-C into this error
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED
    if _is_broken_pipe(error):
        return BROKEN_PIPE
    if isinstance(error, click.exceptions.Exit | click.ClickException):
        return error.exit_code
    if isinstance(error, OSError) and error.errno is not None:  # such as a full disk
        kind = Misuse if error.errno in _OF_NAMES else NotFound if error.errno == errno.ENOENT else Unavailable
        return STATUS_BY_ERROR[kind]
    return next((status for kind, status in STATUS_BY_ERROR.items() if isinstance(error, kind)), UNEXPECTED)


def _is_broken_pipe(error: BaseException) -> bool:
    """Return whether an error means that the program that reads the output has ended.

    click turns such an error into an exit, and replaces the output stream by a wrapper.
    """
    if isinstance(error, SystemExit):
        return "PacifyFlush" in type(sys.stdout).__name__  # click 8 has no public name for this class
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _ended(error: BaseException, manner: Manner) -> int:
    if isinstance(error, SystemExit) and not _is_broken_pipe(error):
        return error.code if isinstance(error.code, int) else UNEXPECTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    status = status_of(error)
    try:
        if status in (INTERRUPTED, TERMINATED):
            _ignore_signals()  # only the message and the exit remain
            word = "stopped" if status == TERMINATED else "interrupted"
            _say(status, f"{word}. {manner.safe}", word, manner)
        elif status != BROKEN_PIPE:
            _say(status, _message(error, manner), type(error).__name__, manner)
        if manner.debug and status != BROKEN_PIPE:
            traceback.print_exception(error)
    except OSError as unread:  # the output stream is closed, or the disk is full
        status = BROKEN_PIPE if _is_broken_pipe(unread) else status
        _close_quietly()
    try:
        sys.stdout.flush()
    except OSError as unwritten:
        status = status_of(unwritten) if status == 0 else status
        _close_quietly()
    return status


def _message(error: BaseException, manner: Manner) -> str:
    if isinstance(error, click.UsageError):
        more = f"\nTry: {error.ctx.command_path} --help" if error.ctx is not None else ""
        return " ".join(error.format_message().split()) + more  # click writes each choice on its own line
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, TrimtabError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else _unnamed(error)
        return f"{file}: {error.strerror}. Check that it exists, that access is allowed, and that the disk has space."
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    hint = "" if manner.debug else "\nThis should not happen. Run again with --debug for the whole traceback."
    return f"{type(error).__name__}{where}: {' '.join(str(error).split())}{hint}"


def _unnamed(error: OSError) -> str:
    """Return a name for an error without a file name: "standard output" if it occurred while writing output."""
    frames = traceback.extract_tb(error.__traceback__)
    written = bool(frames) and frames[-1].name in ("echo", "_guarded", "_ended")
    return "standard output" if written else "a file or connection"


def _say(status: int, message: str, kind: str, manner: Manner) -> None:
    lines = [line for line in mask_url(message).splitlines() if line.strip()] or [kind]
    shown = [printable(line) for line in lines[:2]]
    if manner.json:
        document = {"error": kind, "message": " ".join(shown), "exit_status": status}
        print(msgspec.json.encode(document).decode(), file=sys.stderr)
        return
    print(f"trimtab: {shown[0]}", *shown[1:], sep="\n", file=sys.stderr)


def printable(text: str) -> str:
    """Return the text with control characters escaped, so that data cannot control the terminal.

    >>> printable("a\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _terminated(number: int, frame: FrameType | None) -> None:
    """Raise Terminated when a signal arrives, as Ctrl-C raises KeyboardInterrupt."""
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
    raise Terminated


def _is_unwinding() -> bool:
    """Return whether a signal's exception is being handled now, in a `finally` or at the end of a `with`."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, Terminated | KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _raised_again() -> Iterator[None]:
    """Inside the block, if the interpreter has ignored a signal's exception, raise it again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored: list[BaseException] = []
    report = sys.unraisablehook

    def unraisable(args: sys.UnraisableHookArgs, /) -> None:
        if isinstance(args.exc_value, Terminated | KeyboardInterrupt):
            ignored.append(args.exc_value)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
        else:
            report(args)

    def again(number: int, frame: FrameType | None) -> None:
        if not _is_unwinding():
            raise ignored.pop() if ignored else Terminated

    before, sys.unraisablehook = signal.signal(signal.SIGALRM, again), unraisable
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.unraisablehook = report
        signal.signal(signal.SIGALRM, before)


def _ignore_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def _print_anything() -> None:
    """Let output use escapes for characters that the terminal cannot show, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # the stream is closed or was replaced by a test
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # TextIO does not declare it


def _open_closed_streams() -> None:
    """Replace closed standard streams (`>&-`) by the null device, so that no other file gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # stays open as long as the process runs


def _close_quietly() -> None:
    """Keep the interpreter from complaining about a closed pipe when it flushes the output at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
