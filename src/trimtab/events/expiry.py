"""Expiry of rows in a table of record after their retention time. # D23

Events before some time are not kept. All rows of an event expire together, if every version of the event happened and
became known before that time. The newest such event of each entity stays, so that the entity and its newest value stay
known. For history that was loaded late, further events stay: of the events that were appended after that time, the
newest of each hour and the first of each partition. They are needed because answers given at that time did not use what
was loaded later. # D23
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def expired(before_us: int, entities: Collection[Sequence[str]]) -> str:
    """Return the SQL condition for the rows that expire, for `Prunable.prune`.

    Args:
        before_us: Events before this time are not kept.
        entities: The columns that name an entity, as one sequence for each view.
    """
    before = f"make_timestamptz({before_us})"
    young = f'SELECT "_id" FROM rows WHERE greatest("_event_at", "_known_at") >= {before}'
    old = f'"_id" NOT IN ({young})'
    stubs = [f' AND "_id" NOT IN ({_kept(old, before, by)})' for by in sorted({tuple(by) for by in entities})]
    return old + "".join(stubs)


def _kept(old: str, before: str, by: Sequence[str]) -> str:
    """Return the ids of the old events that stay for each entity.

    In the order of age, an event that still counts is newer than any event that was deleted.
    """
    entity = ", ".join('"' + column.replace('"', '""') + '"' for column in by)
    versions = 'PARTITION BY "_id" ORDER BY "_known_at" DESC, "_partition" DESC, "_position" DESC'
    places = '"_event_at" DESC, "_known_at" DESC, "_partition" DESC, "_position" DESC'
    holds = f"""(SELECT *, "_op" <> 'delete' AND row_number() OVER ({versions}) = 1 AS _holds,
        CASE WHEN "_append_at" < {before} THEN {before} ELSE date_trunc('hour', "_append_at") END AS _hour
        FROM rows WHERE {old})"""
    ranked = f"""(SELECT *, row_number() OVER (PARTITION BY {entity}, _hour ORDER BY _holds DESC, {places}) AS _place,
        row_number() OVER (PARTITION BY {entity}, _hour, "_partition" ORDER BY "_position") AS _arrived FROM {holds})"""
    return f'SELECT "_id" FROM {ranked} WHERE _place = 1 OR (_arrived = 1 AND "_append_at" >= {before})'
