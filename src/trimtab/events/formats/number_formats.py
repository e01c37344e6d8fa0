"""Number formats that a source declares by an example, such as `1.234,56 €`.  # D0208

The example writes the number 1234.56 as the file does. It shows the sign between thousands, the decimal sign, and the
unit that may stand before or behind a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

from trimtab.core.errors import Misuse
from trimtab.core.shown import shown

SPACES = " \u00a0\u202f"  # signs that count as a space between groups of digits, and before a unit
_MINUS = "\u2212-"
_EXAMPLE = re.compile(r"(?P<before>[^\d+.,'-]*)1(?P<group>[.,' ]?)234(?:(?P<decimal>[.,])56)?(?P<behind>[^\d.,'+-]*)")
_WRITE = 'Write the number 1234.56 as the file does: "1234.56", "1,234.56", "1.234,56 €", "$1 234.56".'


class NumberFormat:
    """A declared form of numbers. Make it with `number_format`."""

    def __init__(self, text: str, group: str, decimal: str, before: str, behind: str) -> None:
        self.text = text
        self.group = group  # the sign between thousands, or ""
        self.decimal = decimal  # the decimal sign, or "" for whole numbers
        self.unit = before or behind
        space, end = f"[{SPACES}]*", "[eE][+-]?[0-9]{1,9}"
        sign = f"[+{_MINUS}]?"
        whole = f"[0-9]{{1,3}}(?:{_class(group)}[0-9]{{3}})+|[0-9]+" if group else "[0-9]+"
        fraction = f"(?:{re.escape(decimal)}([0-9]*))?" if decimal else "()"
        head = f"({sign}){_optional(before, space)}({sign})" if before else f"({sign})()"
        tail = f"{space}(?:{re.escape(behind)})?" if behind else ""
        self.pattern = f"{head}({whole}){fraction}({end})?{tail}"  # also a pattern of RE2, which DuckDB uses
        self._match = re.compile(self.pattern).fullmatch
        self._match_lines = re.compile(f"(?:{self.pattern}\n)*").fullmatch
        self._drop = str.maketrans("", "", SPACES if group == " " else group)
        self._plain = str.maketrans({**dict.fromkeys(SPACES + group, ""), (decimal or "."): ".", "\u2212": "-"})

    def plain(self, texts: Sequence[str]) -> list[str] | None:
        """Return texts in this format as Python writes numbers; None if any of them is no such number.

        A text with two signs, such as "-$-5", keeps both, so that Python's `float` and `int` refuse it.
        """
        lines = "\n".join(texts) + "\n"
        if not self._match_lines(lines):
            return None
        return (lines.replace(self.unit, "") if self.unit else lines).translate(self._plain).split("\n")[:-1]

    def number(self, text: str) -> Decimal | None:
        """Return the number in a text without surrounding spaces; None: the text is no such number."""
        found = self._match(text)
        if found is None or (found[1] and found[2]):
            return None
        minus = "-" if (found[1] or found[2]) and (found[1] or found[2]) in _MINUS else ""
        return Decimal(f"{minus}{found[3].translate(self._drop)}.{found[4] or '0'}{found[5] or ''}")


@lru_cache(maxsize=256)
def number_format(text: str) -> NumberFormat:
    """Return the format that an example declares.

    Raises:
        Misuse: The text does not write the number 1234.56, or 1234 for whole numbers.

    >>> number_format("1.234,56 €").number("-2.500,5 €"), number_format("$1,234.56").number("1234")
    (Decimal('-2500.5'), Decimal('1234.0'))
    """
    found = _EXAMPLE.fullmatch(text) if isinstance(text, str) else None
    if found is None or (found["group"] and found["group"] == found["decimal"]):
        raise Misuse(f"{shown(text)[:100]} is not a number format. {_WRITE}")
    before, behind = found["before"].strip(), found["behind"].strip()
    if before and behind:
        raise Misuse(f"{text!r} has a unit on both sides. {_WRITE}")
    return NumberFormat(text, found["group"], found["decimal"] or "", before, behind)


def _class(group: str) -> str:
    return f"[{SPACES}]" if group == " " else re.escape(group)


def _optional(unit: str, space: str) -> str:
    return f"(?:{re.escape(unit)})?{space}"
