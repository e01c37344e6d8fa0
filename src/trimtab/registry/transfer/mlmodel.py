"""MLmodel files, read and written without a YAML library: the block style that MLflow itself writes. # D61"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from trimtab.core.errors import Misuse

_ENTRY = re.compile(r"""(?P<key>'(?:[^']|'')*'|"[^"]*"|[^\s'"\[{\-#][^:#]*|-[^\s:][^:]*):(?:\s+(?P<value>.*))?$""")
_PLAIN: dict[str, Any] = {"null": None, "~": None, "": None, "true": True, "false": False, "{}": {}, "[]": []}
_DEEPEST = 20


def write_yaml(document: Mapping[str, Any], indent: int = 0) -> str:
    """A document in block style; texts as JSON writes them, which is YAML too.

    >>> print(write_yaml({"flavors": {"lightgbm": {"data": "model.txt", "code": None}}}), end="")
    flavors:
      lightgbm:
        data: "model.txt"
        code: null
    """
    out = ""
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            out += f"{' ' * indent}{name}:\n{write_yaml(value, indent + 2)}"
        else:
            out += f"{' ' * indent}{name}: {msgspec.json.encode(value).decode()}\n"
    return out


def read_yaml(text: str) -> dict[str, Any]:
    """The document of an MLmodel file: mappings, lists, texts, None, True and False; numbers stay texts.

    Raises:
        Misuse: It is none, or is written in a style that MLflow does not write; the message names the line.

    >>> read_yaml("flavors:\\n  lightgbm:\\n    data: model.lgb\\n    code: null\\n")
    {'flavors': {'lightgbm': {'data': 'model.lgb', 'code': None}}}
    """
    lines = _Lines(text)
    found = _block(lines, 0) if lines.indent is not None else None
    if not isinstance(found, dict) or lines.indent is not None:
        raise lines.refused()
    return found


class _Lines:
    """The lines that are not read yet."""

    def __init__(self, text: str) -> None:
        self._all = text.replace("\r\n", "\n").replace("\t", " ").split("\n")
        self._at = 0

    @property
    def indent(self) -> int | None:
        """Of the next line that says something; None at the end."""
        while self._at < len(self._all) and (not self.text or self.text.startswith("#") or self.text == "---"):
            self._at += 1
        if self._at >= len(self._all):
            return None
        line = self._all[self._at]
        return len(line) - len(line.lstrip(" "))

    @property
    def text(self) -> str:
        return self._all[self._at].strip()

    @property
    def ended(self) -> bool:
        return self._at >= len(self._all)

    def next(self) -> str:
        """The next line, though it be empty; it is read then."""
        self._at += 1
        return self._all[self._at - 1].strip()

    def replace(self, text: str) -> None:
        """Read the next line as if it were this."""
        self._all[self._at] = text

    def refused(self) -> Misuse:
        line = min(self._at, len(self._all) - 1)
        return Misuse(
            f"MLmodel: line {line + 1} ({self._all[line].strip()[:60]!r}) is not as MLflow writes it. Give the model's "
            "own file instead of the folder."
        )


def _block(lines: _Lines, depth: int) -> Any:
    indent = lines.indent
    if indent is None or depth > _DEEPEST:
        raise lines.refused()
    return (
        _list(lines, indent, depth) if lines.text.startswith("- ") or lines.text == "-" else _map(lines, indent, depth)
    )


def _map(lines: _Lines, indent: int, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while lines.indent == indent and not lines.text.startswith("- "):
        entry = _ENTRY.match(lines.text)
        if entry is None:
            raise lines.refused()
        key, value = entry["key"].strip(), entry["value"] or ""
        lines.next()
        found[key.strip("'\"")] = _scalar(value, lines, indent) if value else _below(lines, indent, depth)
    return found


def _below(lines: _Lines, indent: int, depth: int) -> Any:
    """What stands under a key: a block that is further in, or a list; nothing is null."""
    if lines.indent is not None and (lines.indent > indent or (lines.indent == indent and lines.text.startswith("- "))):
        return _block(lines, depth + 1)
    return None


def _list(lines: _Lines, indent: int, depth: int) -> list[Any]:
    found: list[Any] = []
    while lines.indent == indent and lines.text.startswith("-"):
        rest = lines.text[1:].strip()
        if _ENTRY.match(rest) and rest[0] not in "'\"":
            lines.replace(" " * (indent + 2) + rest)
            found.append(_block(lines, depth + 1))
        else:
            lines.next()
            found.append(_scalar(rest, lines, indent))
    return found


def _scalar(first: str, lines: _Lines, indent: int) -> Any:
    """A value that begins with `first`, and may go on in the lines below."""
    if first[:1] in ("|", ">"):
        return "\n".join(_deeper(lines, indent))
    if first[:1] in ("'", '"'):
        return _quoted(first, lines)
    if first in _PLAIN:
        return _PLAIN[first]
    text = " ".join([first, *_deeper(lines, indent)])
    if first[0] in "[{":
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return text


def _deeper(lines: _Lines, indent: int) -> Iterator[str]:
    while lines.indent is not None and lines.indent > indent:
        yield lines.next()


def _quoted(first: str, lines: _Lines) -> str:
    """A quoted text; a line break in it is a space, an empty line a line break."""
    quote, parts = first[0], [first[1:]]
    while not _closed(parts[-1], quote):
        if lines.ended:
            raise lines.refused()
        parts.append(lines.next())
    text = _folded([*parts[:-1], parts[-1][:-1]])
    if quote == "'":
        return text.replace("''", "'")
    try:
        return msgspec.json.decode(f'"{text}"', type=str)
    except msgspec.DecodeError:
        raise lines.refused() from None


def _closed(text: str, quote: str) -> bool:
    if quote == "'":
        return (len(text) - len(text.rstrip("'"))) % 2 == 1
    body = text[:-1]
    return text.endswith('"') and (len(body) - len(body.rstrip("\\"))) % 2 == 0


def _folded(parts: Iterable[str]) -> str:
    out, breaks = "", 0
    for number, part in enumerate(parts):
        if not number:
            out = part
        elif not part:
            breaks += 1
        else:
            between = "\n" * breaks or " "
            out = f"{out[:-1]}{part}" if out.endswith("\\") else f"{out}{between}{part}"
            breaks = 0
    return out
