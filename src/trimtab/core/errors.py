"""The five errors, one for each way to react."""


class TrimtabError(Exception):
    """The base of all errors that trimtab raises.

    The message says what was found, what was needed and what to do.
    """


class Misuse(TrimtabError, ValueError):
    """The caller must change something: an argument, a definition, a file."""


class NotFound(TrimtabError, LookupError):
    """The named thing does not exist here. The message lists the things that exist."""


class Conflict(TrimtabError):
    """Another process changed or holds the thing. Read it again, then decide."""


class Unavailable(TrimtabError):
    """A resource is missing or busy now. The same call may work later."""


class Corrupt(TrimtabError):
    """Stored bytes are not the bytes that were written. The message names the file and the record."""
