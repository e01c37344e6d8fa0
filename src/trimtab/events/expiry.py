"""Find the rows of a table of record (a permanent copy of events) that may be removed after the retention time. # D23

An event expires as a whole, when all of its versions happened and became known before a given time. There are two
exceptions. First, the newest such event of each entity stays, so that the entity and its newest values stay known.
Second, some old events stay that were appended after the given time, because history was loaded late: for each entity
and each hour of appending, the newest event, and in each partition the event that was appended first. They show when
the history was loaded: predictions made before then did not use it. # D23
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def expired(before_us: int, entities: Collection[Sequence[str]]) -> str:
    """Return an SQL condition for the rows that expire, for use with `Prunable.prune`.

    Args:
        before_us: Events before this time expire.
        entities: For each view, the columns that identify an entity.
    """
    before = f"make_timestamptz({before_us})"
    young = f'SELECT "_id" FROM rows WHERE greatest("_event_at", "_known_at") >= {before}'
    old = f'"_id" NOT IN ({young})'
    stubs = [f' AND "_id" NOT IN ({_kept(old, before, by)})' for by in sorted({tuple(by) for by in entities})]
    return old + "".join(stubs)


def _kept(old: str, before: str, by: Sequence[str]) -> str:
    """Return an SQL query for the ids of old events that must stay, for the entities that the columns `by` identify.

    Rows of an entity are grouped by the hour of their append (before `before`: one group). In each group, the row with
    the latest event time stays, chosen if possible among the newest versions of events that are not deleted. In later
    groups, the first appended row of each partition stays, too.
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
