"""Convert SQLite's result codes to trimtab's errors."""

from __future__ import annotations

import sqlite3

from trimtab.core.errors import Conflict, Corrupt, Misuse, TrimtabError, Unavailable

# UnicodeDecodeError occurs when SQLite's message quotes damaged bytes
SQLITE_RAISES = (sqlite3.Error, UnicodeDecodeError)
# I/O errors that are signs of damage: trying again does not help
_SHORT_READ = (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)
_NOT_NOW = {
    sqlite3.SQLITE_FULL: "the disk (or quota) is full. Free some space and try again; what was acknowledged is safe",
    sqlite3.SQLITE_READONLY: "it is read-only for this user, or its disk was full when it was opened. Check free space "
    "and access to the file and its directory, and try again; nothing was written",
    sqlite3.SQLITE_IOERR: "the disk refused to read or write. Check free space, limits and the disk, and try again",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened. Check that the directory exists and is writable for this user",
    sqlite3.SQLITE_PERM: "access is denied. Give this user access to the file and its directory",
    sqlite3.SQLITE_NOMEM: "memory ran out. Free some and try again",
    sqlite3.SQLITE_BUSY: "another process kept it locked for too long. Try again",
    sqlite3.SQLITE_LOCKED: "another connection kept it locked for too long. Try again",
    sqlite3.SQLITE_INTERRUPT: "the call was interrupted. Try again",
}


def named(error: sqlite3.Error | UnicodeDecodeError, what: str) -> TrimtabError:
    """Return trimtab's error for SQLite's `error`. `what` is the file or URL, for the message."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary == sqlite3.SQLITE_TOOBIG:
        return Misuse(f"{what}: {error}. A value may have up to 1,000,000,000 bytes; store it in smaller parts.")
    if primary == sqlite3.SQLITE_CONSTRAINT:
        return Conflict(f"{what}: {error}. Another process wrote the same row; read it again before you decide.")
    if primary in _NOT_NOW and code not in _SHORT_READ:
        return Unavailable(f"{what}: {_NOT_NOW[primary]} (SQLite: {error}).")
    return Corrupt(f"{what}: not a sound database file (SQLite: {error}). Restore it from a copy, or move it away.")
