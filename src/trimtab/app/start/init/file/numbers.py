"""Find the format in which the texts of a column write numbers: signs for thousands and decimals, and a unit."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from trimtab.events.formats.number_formats import SPACES, number_format

_GAP = f"[{SPACES}]*"
# A currency before the number, or a unit after it. Texts with other letters are codes, such as A-1001.
_BEFORE = r"(?:[A-Z]{0,2}[$€£¥₹]|EUR|USD|GBP|CHF|JPY|CAD|AUD|SEK|NOK|DKK|PLN|kr)?"
_BEHIND = r"(?:[%‰°$€£¥₹]|°[CF]|[A-Za-zµ]{1,6}[²³]?(?:/[A-Za-zµ]{1,6}[²³]?)?)?"
_NUMBER = re.compile(f"[+\u2212-]?({_BEFORE}){_GAP}[+\u2212-]?([0-9][0-9.,'{SPACES}]*)({_GAP})({_BEHIND})")
_PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_CODE = re.compile(r"[+-]?0[0-9].*|[+-]?[0-9]{19,}")  # leading zeros, or more digits than 64 bits can hold


class Numbers(msgspec.Struct, frozen=True):
    """A way to write numbers that fits a sample of texts."""

    example: str | None  # the number 1234.56 as written in this format; None for plain numbers with a decimal point
    doubtful: tuple[str, str] | None = None  # two formats that both fit the texts, of which neither is more likely


def numbers_in(texts: Sequence[str]) -> Numbers | None:
    """Return how texts write numbers; None if over 2 % are no numbers, one is a code ("007"), or their units differ.

    >>> numbers_in(["1.234,50 €", "12 €", "-7,25 €"])
    Numbers(example='1.234,56 €', doubtful=None)
    >>> numbers_in(["1.234", "850"]).doubtful
    ('1234.56', '1.234,56')
    """
    if not texts or any(map(_CODE.fullmatch, texts)):
        return None
    found = [match for match in map(_NUMBER.fullmatch, texts) if match]
    plain = [text for text in texts if _PLAIN.fullmatch(text)]
    if len(plain) == len(texts) and any("e" in text.lower() for text in texts):
        return Numbers(None)
    if len(found) < max(1, 0.98 * len(texts)) and len(plain) < 0.98 * len(texts):
        return None
    units = {(match[1], match[4]) for match in found if match[1] or match[4]}
    if len(units) > 1:
        return None
    before, behind = next(iter(units), ("", ""))
    gap = " " if any(match[4] and (match[3] or match[2][-1] in SPACES) for match in found) else ""
    bodies = [match[2].rstrip(SPACES) for match in found] or plain
    forms = _forms(bodies)
    written = [f"{before}{form}{gap}{behind}" for form in forms]
    if not forms:
        return None
    example = None if written[0] == "1234.56" else written[0]
    return Numbers(example, (written[0], written[1]) if len(forms) > 1 else None)


def _forms(bodies: Sequence[str]) -> list[str]:
    """Return the ways to write 1234.56 that fit the given numbers: none, one, or two if it is doubtful which."""
    bodies = [re.sub(f"[{SPACES}]", " ", body) for body in bodies]
    signs = {sign for sign in ".,' " if any(sign in body for body in bodies)}
    candidates = []
    for group in ("", *".,' "):
        for decimal in ".,":
            if group == decimal or not signs <= {group, decimal} or (group and group not in signs):
                continue
            way = f"1{group}234{decimal}56"
            if sum(number_format(way).number(body) is not None for body in bodies) >= 0.98 * len(bodies):
                candidates.append(way)
    if len(candidates) > 1 and not signs & {".", ","}:  # no sign that may separate decimals
        return [next(way for way in candidates if way.endswith(".56"))]
    return _decided(candidates, bodies)


def _decided(candidates: list[str], bodies: Sequence[str]) -> list[str]:
    """If a sign may group thousands or separate decimals, decide by numbers in which it can only do one of these."""
    if len(candidates) < 2:
        return candidates
    grouped = [way for way in candidates if way[1] in ".,"]
    # a number such as 1234, whose thousands are not grouped
    long = any(re.fullmatch(r"[0-9]{4,}", body) for body in bodies)
    zero = any(re.match(r"0[.,]", body) for body in bodies)
    if grouped and (long or zero):
        return [way for way in candidates if way not in grouped][:1]
    return sorted(candidates, key=lambda way: way[1] in ".,")[:2]
