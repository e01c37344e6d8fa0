"""The description, the owner and the tags of a definition. They are not part of its content address."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trimtab.core.errors import Misuse


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A description, an owner and tags. Make it with `about()`."""

    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()  # such as "pii"


NOTHING = About()


def about(description: str, owner: str, tags: Sequence[str], what: str) -> About:
    """Check what was declared, and return it. `what` names the definition in errors.

    Raises:
        Misuse: Some value is not text, or the tags are one text instead of several.

    >>> about("Delays by carrier.", "ops", ["pii"], "view 'carrier'").tags
    ('pii',)
    """
    for name, text in (("description", description), ("owner", owner)):
        if not isinstance(text, str):
            raise Misuse(f"{what}: {name}={text!r} must be text.")
    if isinstance(tags, str) or not all(isinstance(tag, str) and tag for tag in tags):
        raise Misuse(f'{what}: tags={tags!r} must be a list of texts, such as ["pii"].')
    return About(description=description, owner=owner, tags=tuple(dict.fromkeys(tags)))
