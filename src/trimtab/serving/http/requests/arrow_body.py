"""Read request bodies that are Arrow IPC streams, within limits of rows and memory."""

from __future__ import annotations

from trimtab.core.columns.data import ArrowTable
from trimtab.serving.problems import Refused

ARROW_TYPE = b"application/vnd.apache.arrow.stream"
_DECODED = 4  # a decoded table may take this many times the bytes of the body, plus 24 MB
_EXPANDED = 16  # a table may have this many characters for each byte of the body


def table_of_body(body: bytes, most_rows: int, what: str, *, loose: bool = False) -> ArrowTable:
    """Return the table in an Arrow stream that was sent over the network.

    Args:
        most_rows: A stream with more rows is refused.
        what: The word for rows in error messages, such as "events".
        loose: Whether decimals stay decimals (see `read_ipc`).

    Raises:
        Refused: There are too many rows, the table or its texts are far larger than the body (413), or pyarrow is not
            installed (415).
        Misuse: The body is not an Arrow stream.
    """
    from trimtab.core.columns.arrow_ipc import NoPyarrow, TooLarge, TooManyRows, read_ipc

    try:
        table = read_ipc(body, "body", most_rows=most_rows, times=_DECODED, loose=loose)
    except TooManyRows:
        raise too_many_rows(f"more than {most_rows} {what}", most_rows) from None
    except TooLarge as error:
        raise Refused(413, str(error)) from error
    except NoPyarrow as error:
        raise Refused(415, f"{error} where the service runs, or send JSON.") from error
    texts = (column.values for column in table.columns.by_name.values() if column.dtype == "str")
    characters = sum(len(text) for values in texts for text in values.tolist() if text is not None)
    if characters > _EXPANDED * (len(body) + 1):  # with dictionary encoding, all rows may refer to one long text
        raise Refused(413, f"body: the texts of all rows have {characters} characters together. Send it in parts.")
    return table


def too_many_rows(found: str, most_rows: int) -> Refused:
    """Return the error for a body with too many rows (413)."""
    return Refused(413, f"body: {found}; the limit is {most_rows}. Send them in parts.")
