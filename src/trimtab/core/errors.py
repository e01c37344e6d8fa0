"""The five errors, named for who acts on them."""


class TrimtabError(Exception):
    """Anything trimtab raises on purpose. The message says what was needed, what was found and what to do."""


class Misuse(TrimtabError, ValueError):
    """The caller must change something: an argument, a definition, a file."""


class NotFound(TrimtabError, LookupError):
    """The thing named does not exist here; the message lists what does."""


class Conflict(TrimtabError):
    """Somebody else changed or holds it; read again, then decide."""


class Unavailable(TrimtabError):
    """A resource is missing or busy now; the same call may work later."""


class Corrupt(TrimtabError):
    """Stored bytes are not what was written; the message names the file and the record."""
