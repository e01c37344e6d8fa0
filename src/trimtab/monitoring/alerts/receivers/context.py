"""The context of a delivery: the project's folder, and the environment variables that hold secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template

from trimtab.core.errors import Misuse


class DeliveryContext:
    """Replaces `$NAME` in settings by the value of the environment variable, and hides the value in texts for people.

    >>> context = DeliveryContext({"TOKEN": "s3cret"}, Path())
    >>> context.filled("Bearer $TOKEN"), context.hidden("401 for s3cret")
    ('Bearer s3cret', '401 for ***')
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder  # the folder of the project
        self._found: set[str] = set()

    def filled(self, text: str) -> str:
        """Return a text in which each `$NAME` is replaced by the value of the environment variable.

        Raises:
            Misuse: There is no such environment variable, or it is empty.
        """
        if "$" not in text:
            return text
        for name in Template(text).get_identifiers():
            value = self.environment.get(name, "")
            if not value:
                raise Misuse(f"the environment variable {name} is not set. Set it for the process that sends alerts.")
            self._found.add(value)
        return Template(text).substitute(self.environment)

    def hidden(self, text: str) -> str:
        """Return a text in which every value that was filled in is replaced by ***."""
        for value in sorted(self._found, key=len, reverse=True):
            text = text.replace(value, "***")
        return text
