"""The description, the owner and the tags of a definition. They do not affect the definition's hash."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trimtab.core.errors import Misuse


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A description, an owner and tags of a definition. `about()` makes and checks one."""

    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()  # labels for people, such as "pii"


NOTHING = About()


def about(description: str, owner: str, tags: Sequence[str], what: str) -> About:
    """Check a description, an owner and tags, and return them as one object. `what` names the definition in errors.

    Raises:
        Misuse: A value is not text, or `tags` is a single text instead of several.

    >>> about("Delays by carrier.", "ops", ["pii"], "view 'carrier'").tags
    ('pii',)
    """
    for name, text in (("description", description), ("owner", owner)):
        if not isinstance(text, str):
            raise Misuse(f"{what}: {name}={text!r} must be text.")
    if isinstance(tags, str) or not all(isinstance(tag, str) and tag for tag in tags):
        raise Misuse(f'{what}: tags={tags!r} must be a list of texts, such as ["pii"].')
    return About(description=description, owner=owner, tags=tuple(dict.fromkeys(tags)))
