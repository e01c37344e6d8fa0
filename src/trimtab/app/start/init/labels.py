"""The values of the label: which one counts as 1, which classes there are, or that it is a number."""

from __future__ import annotations

import json
import shlex

import msgspec

from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.file.texts import literal, quoted
from trimtab.app.start.init.options import Assumption
from trimtab.core.errors import Misuse
from trimtab.events.values.conversions import BOOL_WORDS

_POSITIVE = ("yes", "y", "true", "t", "1", "positive", "pos", "good", "success", "fraud", "churned", "won")
_NEGATIVE = ("no", "n", "false", "f", "0", "negative", "neg", "bad", "failure", "legit", "stayed", "lost")
_MOST_CLASSES = 20  # a text label has at most this many classes, because each needs enough rows


class LabelValues(msgspec.Struct, frozen=True, kw_only=True):
    """The meaning of the label's values."""

    value: str | None = None  # the value, as Python source, that counts as 1; None: the column is the label
    binary: bool = False
    classes: tuple[str, ...] = ()  # the classes, if the label has several, the most frequent first

    def positive(self, label: str) -> str:
        """Return the SQL condition that a label counts as 1.

        If there are several classes, the most frequent one counts as 1. For numbers, the condition is "false".
        """
        q = quoted(label)
        value = python(self.classes[0]) if self.classes else self.value
        if value is None:
            return f"{q}" if self.binary else "false"
        return f"({q} = {literal(json.loads(value)) if value.startswith(chr(34)) else value})"


def label_values(table: DataTable, label: str, given: str | None, assumed: list[Assumption]) -> LabelValues:
    """Return the meaning of the label's values. `given` is the value that counts as 1, if the caller named it.

    Raises:
        Misuse: The label has a single value, too many classes, or spellings that differ only in case or spaces.
    """
    profile = table.columns[label]
    if profile.kind.variants and label not in table.merged:
        shown = "; ".join(", ".join(map(repr, spellings[:4])) for spellings in profile.kind.variants[:4])
        raise Misuse(
            f"label {label!r} has spellings that differ in case or spaces alone: {shown}. Make each group one value: "
            f"--merge {shlex.quote(label)}"
        )
    values = table.values(label, _MOST_CLASSES + 1)
    if len(values) < 2 and given is None:
        held = f"only {(profile.kind.examples or values[0])[0]!r}" if values else "no value"
        raise Misuse(f"label {label!r} holds {held}, needed at least two values. Choose another --label.")
    if given is not None:
        return LabelValues(value=_given(table, label, given), binary=True)
    if profile.dtype == "bool":
        assumed.append(
            Assumption(
                "positive",
                f"{label!r} counts as 1 where it says yes, in any spelling (yes, Y, ja, true, 1)",
                "--positive",
            )
        )
        return LabelValues(binary=True)
    if profile.distinct == 2 and len(values) == 2:
        chosen, known = _positive(values)
        why = "because of its name" if known else "because it is the rarer value"
        assumed.append(Assumption("positive", f"{label!r} == {chosen!r} counts as 1, {why}", "--positive"))
        return LabelValues(value=python(chosen), binary=True)
    if profile.dtype != "str":
        assumed.append(
            Assumption(
                "positive", f"{label!r} has {profile.distinct:,} values, so the number is predicted", "--positive"
            )
        )
        return LabelValues()
    names = [str(value) for value, _ in values]
    if len(names) > _MOST_CLASSES or "" in names:
        raise Misuse(
            f"label {label!r} has {profile.distinct:,} classes ({', '.join(names[:8])}); needed up to {_MOST_CLASSES}, "
            f"or a number. Predict one of them against the rest: --positive {names[0]!r}"
        )
    shown = f"{', '.join(names[:8])}{', ...' * (len(names) > 8)}"
    assumed.append(
        Assumption(
            "classes",
            f"{label!r} is one of {len(names)} classes ({shown}); the model gives a probability of each, or with "
            "--positive VALUE that of one class against the rest",
            "--positive",
        )
    )
    return LabelValues(classes=tuple(names))


def _given(table: DataTable, label: str, given: str) -> str | None:
    """Return the value that the caller named, as Python source; None if it is the true value of a column of bools."""
    if table.columns[label].dtype == "bool" and given.lower() in BOOL_WORDS:
        return None if BOOL_WORDS[given.lower()] else "False"
    fit = [value for value, _ in table.values(label, 10_000) if str(value) == given]
    if not fit:
        found = ", ".join(str(value) for value, _ in table.values(label, 8))
        found = "no, yes" if table.columns[label].dtype == "bool" else found
        raise Misuse(f"--positive {given!r}: label {label!r} has no such value. It has {found}.")
    return None if fit[0] is True else python(fit[0])


def _positive(values: list[tuple[object, int]]) -> tuple[object, bool]:
    """Return which of two values (the more frequent one first) is positive, and whether their names say so.

    If they do not, the rarer one is positive.
    """
    for (value, _), (other, _) in (values, values[::-1]):
        v, o = (str(x).strip().lower().removesuffix(".0") for x in (value, other))
        if (v in _POSITIVE and o not in _POSITIVE) or (o in _NEGATIVE and v not in _NEGATIVE):
            return value, True
    return values[-1][0], False


def python(value: object) -> str:
    """Return a value as Python source.

    >>> python('say "hi"'), python(1.0), python(True)
    ('"say \\\\"hi\\\\""', '1.0', 'True')
    """
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
