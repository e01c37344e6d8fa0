"""Secrets of receivers: named in the settings, kept in the environment, never shown."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from trimtab.core.errors import Misuse


class Secrets:
    """Looks up `$NAME` in texts of the settings, and hides what it found in texts for people.

    >>> secrets = Secrets({"TOKEN": "s3cret"})
    >>> secrets.filled("Bearer $TOKEN"), secrets.hidden("401 for s3cret")
    ('Bearer s3cret', '401 for ***')
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._found: set[str] = set()

    def filled(self, text: str) -> str:
        """The text with what the environment has in the place of each `$NAME`.

        Raises:
            Misuse: It has no such variable, or an empty one.
        """
        if "$" not in text:
            return text
        for name in Template(text).get_identifiers():
            value = self._environment.get(name, "")
            if not value:
                raise Misuse(f"the environment variable {name} is not set. Set it where alerts are delivered.")
            self._found.add(value)
        return Template(text).substitute(self._environment)

    def hidden(self, text: str) -> str:
        """The text with *** in the place of every value that was looked up."""
        for value in sorted(self._found, key=len, reverse=True):
            text = text.replace(value, "***")
        return text
