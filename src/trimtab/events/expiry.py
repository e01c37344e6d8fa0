"""Which rows of a table of record nobody can see any more once events before some moment are not kept. # D23

A row goes when the event's every version happened and became known before that moment, and so go all rows of an event
or none. Of each entity its newest such event stays: so the entity stays known, and its newest value too. Of those that
were appended after that moment (history that was loaded late) stays of each hour the newest one, and the first of each
partition: answers of that time did not know what was loaded later. # D165
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
    stubs = [f' AND "_id" NOT IN ({_kept(old, moment, by)})' for by in sorted({tuple(by) for by in entities})]
    return old + "".join(stubs)


def _kept(old: str, moment: str, by: Sequence[str]) -> str:
    """The ids of the old events that stay of each entity; one that holds is newer than one that was deleted."""
    entity = ", ".join('"' + column.replace('"', '""') + '"' for column in by)
    versions = 'PARTITION BY "_id" ORDER BY "_known_at" DESC, "_partition" DESC, "_position" DESC'
    places = '"_event_at" DESC, "_known_at" DESC, "_partition" DESC, "_position" DESC'
    holds = f"""(SELECT *, "_op" <> 'delete' AND row_number() OVER ({versions}) = 1 AS _holds,
        CASE WHEN "_append_at" < {moment} THEN {moment} ELSE date_trunc('hour', "_append_at") END AS _hour
        FROM rows WHERE {old})"""
    ranked = f"""(SELECT *, row_number() OVER (PARTITION BY {entity}, _hour ORDER BY _holds DESC, {places}) AS _place,
        row_number() OVER (PARTITION BY {entity}, _hour, "_partition" ORDER BY "_position") AS _arrived FROM {holds})"""
    return f'SELECT "_id" FROM {ranked} WHERE _place = 1 OR (_arrived = 1 AND "_append_at" >= {moment})'
