"""Find the words that docs/words.md rules out: `python tests/words.py [path...]` prints `file:line: word -> better`.

The patterns are in tests/words.toml. Names (identifiers, code, quoted names) and prose are told apart, because a stored
or public name may have to keep a word that prose need not.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = "src/trimtab/"
PAGE = ROOT / "docs" / "words.md"
PLACES = ("src", "docs", "changes", "examples", "README.md", "CHANGELOG.md")
SUFFIXES = {".py", ".md", ".toml", ".yml", ".yaml", ".html", ".css", ".js", ".sql"}
ROW = re.compile(r"^\| (?P<old>.+?) \| (?P<new>.+?) \|$", re.MULTILINE)

_BETWEEN = r"(?:[\s_#-]+|)"  # `~` of a pattern
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAME_IN_TEXT = re.compile(r"`[^`]*`|\]\([^)]*\)")
_NAME_IN_F_STRING = re.compile(r"`[^`]*`|\{[^{}]*\}")
_CODE_LINE = re.compile(r"^\s*(?:>>>|\.\.\.).*$|^\s+\w+(?=: )", re.MULTILINE)  # also the names under `Args:`
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_ONE_NAME = re.compile(r"[^\s\"']+")
_IDENTIFIER = re.compile(r"\w+")
_WITHOUT: defaultdict[re.Pattern[str], set[str]] = defaultdict(set)  # texts without a match, because names come often


class Span(NamedTuple):
    """A part of a file: a name (or code), or prose."""

    line: int
    text: str
    is_name: bool


class Found(NamedTuple):
    """An old word in a file."""

    path: str
    line: int
    text: str
    old: str


class Rule:
    """One entry of words.toml."""

    def __init__(self, entry: dict[str, object]) -> None:
        self.old = str(entry["old"])
        pattern = str(entry["pattern"]).replace("~", _BETWEEN)
        self.pattern = re.compile(rf"(?i)(?<![^\W_])(?:{pattern})(?![^\W_])")
        self.roughly = pattern.replace("^", "").replace("$", "")  # matches wherever `pattern` does
        self.kind = entry.get("in")
        self.rooms, self.not_rooms = _strings(entry, "rooms"), _strings(entry, "not_rooms")
        self.keep = set(_strings(entry, "keep"))
        self.plain = [re.compile(text, re.IGNORECASE) for text in _strings(entry, "except")]

    def holds_at(self, path: str) -> bool:
        return _is_below(path, self.rooms) if self.rooms else not _is_below(path, self.not_rooms)

    def found_in(self, path: str, span: Span) -> Iterator[tuple[int, str]]:
        """Offsets and texts of this word in a part of a file."""
        if self.kind is not None and (self.kind == "names") != span.is_name:
            return
        for part, offset in _identifiers(span) if span.is_name else [(span.text, 0)]:
            if span.is_name and ({part, f"{path.removeprefix(SOURCE)} {part}"} & self.keep):
                continue
            words = _CAMEL.sub("_", part) if span.is_name else part
            for match in self.pattern.finditer(words):
                near = span.text[max(0, offset + match.start() - 20) : offset + match.end() + 20]
                if not any(plain.search(near) for plain in self.plain):
                    yield offset + match.start(), match.group()


def _is_below(path: str, places: list[str]) -> bool:
    below = path.removeprefix(SOURCE)
    return any(below == place or below.startswith(f"{place}/") for place in places)


def _strings(entry: dict[str, object], key: str) -> list[str]:
    values = entry.get(key, [])
    assert isinstance(values, list)
    return [str(value) for value in values]


def _identifiers(span: Span) -> Iterator[tuple[str, int]]:
    for match in _IDENTIFIER.finditer(span.text):
        yield match.group(), match.start()


def rules() -> list[Rule]:
    """All entries of words.toml."""
    return [Rule(entry) for entry in tomllib.loads((ROOT / "tests" / "words.toml").read_text("utf-8"))["word"]]


def better() -> dict[str, str]:
    """By old word, what docs/words.md puts in its place."""
    table = PAGE.read_text("utf-8").partition("| instead of | say |\n|---|---|\n")[2]
    return {row["old"]: row["new"] for row in ROW.finditer(table)}


def spans(path: Path, text: str) -> Iterator[Span]:
    """The parts of the text of a file."""
    if path.suffix == ".py":
        yield from spans_of_python(text)
    elif path.suffix == ".md":
        yield from spans_of_markdown(text)
    else:
        yield Span(1, text, is_name=True)


def spans_of_markdown(text: str) -> Iterator[Span]:
    """The parts of a document: code is names."""
    return _split(text, 1, _FENCE, lambda prose, line: _split(prose, line, _NAME_IN_TEXT))


def spans_of_python(text: str) -> Iterator[Span]:
    """The parts of a module: names, comments and strings."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line, kind = token.start[0], tokenize.tok_name[token.type]
        if kind == "NAME":
            yield Span(line, token.string, is_name=True)
        elif kind == "COMMENT":
            yield from _split(token.string, line, _NAME_IN_TEXT)
        elif kind in ("STRING", "FSTRING_MIDDLE"):
            inner = token.string.strip("rbfRBF").strip("\"'")
            if _ONE_NAME.fullmatch(inner):
                yield Span(line, token.string, is_name=True)
            elif kind == "STRING" and "f" in token.string[:2].lower():
                yield from _split(token.string, line, _NAME_IN_F_STRING)
            else:
                yield from _split(token.string, line, _CODE_LINE, lambda rest, at: _split(rest, at, _NAME_IN_TEXT))


def _split(
    text: str, line: int, names: re.Pattern[str], prose: Callable[[str, int], Iterator[Span]] | None = None
) -> Iterator[Span]:
    """Parts of `text`: what matches `names`, and between it what `prose` makes of the rest."""
    end = 0
    for match in [*names.finditer(text), None]:
        start = len(text) if match is None else match.start()
        if start > end:
            at = line + text.count("\n", 0, end)
            yield from prose(text[end:start], at) if prose else iter([Span(at, text[end:start], is_name=False)])
        if match is not None:
            if not match.group().startswith("]("):  # the address of a link
                yield Span(line + text.count("\n", 0, start), match.group(), is_name=True)
            end = match.end()


def files(paths: list[str]) -> list[Path]:
    """The files under some paths of the repository; of folders those that words are held in."""
    found: list[Path] = []
    for given in paths or PLACES:
        path = (ROOT / given).resolve()
        inside = [path] if path.is_file() else [each for each in path.rglob("*") if each.suffix in SUFFIXES]
        found += [each for each in inside if each != PAGE and each.is_file()]
    return sorted(set(found))


def old_words(paths: list[str]) -> list[Found]:
    """Old words in the files under some paths; all that are held when none is given."""
    every, found = rules(), []
    for file in files(paths):
        path, text = file.relative_to(ROOT).as_posix(), file.read_text("utf-8")
        if not _any_of(path, every).search(_CAMEL.sub("_", f"{path}\n{text}")):  # most files have none
            continue
        name = [] if "decisions/" in path else [Span(1, path.removesuffix(file.suffix), is_name=True)]
        found += old_words_in(path, [*name, *spans(file, text)], every)
    return sorted(set(found))


def old_words_in(path: str, parts: Iterable[Span], every: list[Rule]) -> Iterator[Found]:
    """Old words in the parts of one file."""
    held, any_of = [rule for rule in every if rule.holds_at(path)], _any_of(path, every)
    without = _WITHOUT[any_of]
    for span in parts:
        if span.text in without:
            continue
        if not any_of.search(_CAMEL.sub("_", span.text)):
            without.add(span.text)
        else:
            for rule in held:
                for offset, word in rule.found_in(path, span):
                    yield Found(path, span.line + span.text.count("\n", 0, offset), word, rule.old)


def _any_of(path: str, every: list[Rule]) -> re.Pattern[str]:
    """A pattern that matches wherever one of the rules for a file may."""
    return re.compile("|".join(rule.roughly for rule in every if rule.holds_at(path)), re.IGNORECASE)


def room(path: str) -> str:
    """The part of the repository that a file is counted in."""
    parts = path.removeprefix(SOURCE).split("/")
    if path.startswith(SOURCE):
        return parts[0] if len(parts) > 1 else "trimtab"
    return "decisions" if path.startswith("docs/decisions/") else parts[0] if len(parts) > 1 else "docs"


def by_room(found: list[Found]) -> Counter[str]:
    """How many old words there are in each room."""
    return Counter(room(each.path) for each in found)


if __name__ == "__main__":
    words, all_found = better(), old_words(sys.argv[1:])
    for each in all_found:
        print(f"{each.path}:{each.line}: {' '.join(each.text.split())} -> {words[each.old]}")
    print(
        f"{len(all_found)} old words:", ", ".join(f"{name} {count}" for name, count in by_room(all_found).most_common())
    )
