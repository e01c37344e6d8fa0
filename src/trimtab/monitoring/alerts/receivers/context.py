"""The context of a delivery: the project's folder and the environment, whose secrets are never shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template

from trimtab.core.errors import Misuse


class DeliveryContext:
    """Fills in `$NAME` in texts of the settings, and hides the values in texts for people.

    >>> context = DeliveryContext({"TOKEN": "s3cret"}, Path())
    >>> context.filled("Bearer $TOKEN"), context.hidden("401 for s3cret")
    ('Bearer s3cret', '401 for ***')
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder  # the project's folder
        self._found: set[str] = set()

    def filled(self, text: str) -> str:
        """The text with each `$NAME` replaced by the value of the environment.

        Raises:
            Misuse: The environment has no such variable, or the variable is empty.
        """
        if "$" not in text:
            return text
        for name in Template(text).get_identifiers():
            value = self.environment.get(name, "")
            if not value:
                raise Misuse(f"the environment variable {name} is not set. Set it where alerts are delivered.")
            self._found.add(value)
        return Template(text).substitute(self.environment)

    def hidden(self, text: str) -> str:
        """The text with *** in place of every value that was filled in."""
        for value in sorted(self._found, key=len, reverse=True):
            text = text.replace(value, "***")
        return text
