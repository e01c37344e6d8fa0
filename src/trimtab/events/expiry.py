"""Which rows of a table of record nobody can see any more once events before some moment are not kept. # D23

A row goes when the event's every version happened and became known before that moment, and so go all rows of an event
or none. Of each entity its newest such event stays: so the entity stays known, and its newest value too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def expired(before_us: int, entities: Collection[Sequence[str]]) -> str:
    """The SQL condition for rows that may go, for `Prunable.prune`.

    Args:
        before_us: Events before this moment are not kept.
        entities: The columns by which views name an entity, one sequence a view.
    """
    moment = f"make_timestamptz({before_us})"
    young = f'SELECT "_id" FROM rows WHERE greatest("_event_at", "_known_at") >= {moment}'
    old = f'"_id" NOT IN ({young})'
    stubs = [f' AND "_id" NOT IN ({_newest(old, by)})' for by in sorted({tuple(by) for by in entities})]
    return old + "".join(stubs)


def _newest(old: str, by: Sequence[str]) -> str:
    """The id of each entity's newest event among the old ones; one that holds before one that was deleted."""
    entity = ", ".join('"' + column.replace('"', '""') + '"' for column in by)
    versions = 'PARTITION BY "_id" ORDER BY "_known_at" DESC, "_partition" DESC, "_position" DESC'
    places = '"_event_at" DESC, "_known_at" DESC, "_partition" DESC, "_position" DESC'
    holds = f"""(SELECT *, "_op" <> 'delete' AND row_number() OVER ({versions}) = 1 AS _holds FROM rows WHERE {old})"""
    ranked = (
        f"(SELECT *, row_number() OVER (PARTITION BY {entity} ORDER BY _holds DESC, {places}) AS _place FROM {holds})"
    )
    return f'SELECT "_id" FROM {ranked} WHERE _place = 1'
