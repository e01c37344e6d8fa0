"""Open text files: decompression, counting of lines, and errors that name the file."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import IO

from trimtab.core.errors import Misuse, NotFound

NOT_UTF8 = "bytes that are not UTF-8"
_BLOCK = 1 << 20
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local_file(given: str | Path) -> Path:
    """Return the path of a file on this machine, after a check that it exists.

    Raises:
        NotFound: The file does not exist.
        Misuse: The path is a folder, or a URL such as s3://bucket/file.
    """
    path = Path(given)
    if url := _URL.match(str(given)):  # search the text itself, because `Path` turns the "//" of a URL into "/"
        address = f"{url[1]}://{str(given)[url.end() :].lstrip('/')}"
        raise Misuse(
            f"file {address}: found an address, needed a file on this machine. Copy the file to this machine, or read "
            "it with polars, pandas or DuckDB and give the table."
        )
    if path.is_dir():
        raise Misuse(f"{path} is a folder, not a file. Give the path of one of its files at a time.")
    if not path.exists():
        raise NotFound(f"file {path}: not found. Give the path of one file.")
    if not path.is_file():
        raise Misuse(f"{path} is a pipe or a device, which cannot be read twice. Write its content to a file first.")
    return path


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes. If its name ends in .gz, it is decompressed.

    Raises:
        Misuse: The file cannot be read. An error that the system raises inside the block becomes Misuse, too.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream  # type: ignore[misc]  # gzip's file yields bytes
    except gzip.BadGzipFile as error:
        raise Misuse(
            f"file {path}: its name ends in .gz, but its content is not gzip data ({error}). Compress it with gzip, "
            "or rename it."
        ) from error
    except (EOFError, zlib.error) as error:
        raise Misuse(f"file {path}: its gzip data ends early or is damaged ({error}). Copy it again.") from error
    except OSError as error:
        raise Misuse(
            f"file {path}: cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from error


def encoding_advice(path: Path | str, encoding: str = "WINDOWS-1252") -> str:
    """Return a sentence that says how to convert a text file to UTF-8.

    >>> encoding_advice("in.csv")
    'Its encoding is probably WINDOWS-1252. Convert it: iconv -f WINDOWS-1252 -t UTF-8 in.csv > in-utf8.csv'
    """
    path = Path(path)
    made = path.name.partition(".")[0] + "-utf8" + "".join(s for s in path.suffixes if s != ".gz")
    unpacked, given = f"gzip -dc {quote(str(path))} | " * (path.suffix == ".gz"), quote(str(path))
    convert = f"{unpacked}iconv -f {encoding} -t UTF-8 {'' if unpacked else given + ' '}"
    return f"Its encoding is probably {encoding}. Convert it: {convert}> {quote(str(path.with_name(made)))}"


def check_utf8(path: Path, most: float) -> None:
    """Refuse a text file in which more than the share `most` of all lines are not UTF-8.

    Raises:
        Misuse: The file cannot be read, or is in another encoding.
    """
    lines, bad, first = 0, 0, 0
    with open_bytes(path) as stream:
        for lines, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                bad, first = bad + 1, first or lines
    if bad > most * lines:
        raise Misuse(
            f"file {path}: {bad:,} of {lines:,} lines are not UTF-8, the first is line {first}. {encoding_advice(path)}"
        )


@contextmanager
def open_text(path: Path) -> Iterator[Iterator[str]]:
    """Open a file for reading lines, which keep their ends (LF, CRLF or CR).

    Bytes that are not UTF-8 become surrogate characters.

    Raises:
        Misuse: The file cannot be read, or is UTF-16.
    """
    with open_bytes(path) as stream:
        start = stream.read(2)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            advice = encoding_advice(path, "UTF-16").partition(". ")[2]
            raise Misuse(f"file {path}: found UTF-16, needed UTF-8. {advice}")
        stream.seek(0)
        yield io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


def count_lines(path: Path) -> int:
    """Count the lines of a file, without decoding it."""
    lines, last = 0, b""
    with open_bytes(path) as stream:
        while block := stream.read(_BLOCK):
            lines += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
            lines -= last == b"\r" and block[:1] == b"\n"
            last = block[-1:]
    return lines + (last not in (b"", b"\n", b"\r"))
