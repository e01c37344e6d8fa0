"""The five kinds of errors. Each tells the caller how to react."""


class TrimtabError(Exception):
    """The base of all errors that trimtab raises.

    The message says what was found, what was needed and what to do.
    """


class Misuse(TrimtabError, ValueError):
    """The caller must change something: an argument, a definition or a file."""


class NotFound(TrimtabError, LookupError):
    """The named thing does not exist. The message usually lists the things that exist."""


class Conflict(TrimtabError):
    """Another process changed or holds the thing. The caller should read it again, then decide."""


class Unavailable(TrimtabError):
    """A resource is missing or busy now. The same call may work later."""


class Corrupt(TrimtabError):
    """Stored bytes are not those that were written. The message names the file and the record."""
