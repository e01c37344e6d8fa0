"""URLs of files and folders, and hiding of passwords in URLs."""

import os
import re
from pathlib import Path
from urllib.parse import quote

from trimtab.core.errors import Misuse

_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_WORDS = "password|passwd|pwd|secret|token|credential|key"
_SECRET = re.compile(rf"(?i)([?&;](?:[^=&;#\s]*(?:{_WORDS})[^=&;#\s]*)=)[^&;#\s]*")


def mask_url(url: str) -> str:
    """Return `url` for messages and logs, with *** in place of its user, password and secret options.

    >>> mask_url("redis://app:s3cret@cache:6379/0?ssl=1&token=abc")
    'redis://***@cache:6379/0?ssl=1&token=***'
    """
    return _SECRET.sub(r"\1***", _USER.sub("***@", url))


def store_url(scheme: str, path: Path) -> str:
    """Return the URL of a file or folder for `store.open`. The path may have any characters, which are escaped.

    >>> store_url("lmdb", Path("/srv/what? 100%/online"))
    'lmdb:///srv/what%3F%20100%25/online'

    Raises:
        Misuse: The name cannot be encoded as UTF-8.
    """
    return f"{scheme}://{quote(str(in_utf8(path).absolute()))}"


def in_utf8(path: Path) -> Path:
    """Return `path`, after a check that its absolute name is UTF-8, so that it can be stored and shown.

    Raises:
        Misuse: The name is not UTF-8.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise Misuse(
            f"{os.fsencode(path.absolute())!r}: this path is not UTF-8, but must be. Rename the file or its folders."
        ) from error
    return path
