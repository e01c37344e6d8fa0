"""Old words (docs/words.md): none may come back, and their number in each room only shrinks."""

from __future__ import annotations

import tomllib

import pytest

import words

BUDGET = tomllib.loads((words.ROOT / "budget.toml").read_text("utf-8")).get("old_words", {})


@pytest.mark.slow
def test_no_room_has_more_old_words_than_its_budget() -> None:
    found = words.old_words([])
    over = {room: count for room, count in words.by_room(found).items() if count > BUDGET.get(room, 0)}
    places = [f"{each.path}:{each.line}: {each.text}" for each in found if words.room(each.path) in over]
    assert over == {}, "Say it in the words of docs/words.md:\n" + "\n".join(places)


@pytest.mark.fast
def test_the_page_and_the_patterns_have_the_same_words() -> None:
    assert sorted({rule.old for rule in words.rules()}) == sorted(words.better())


@pytest.mark.fast
@pytest.mark.parametrize(
    ("path", "code", "found"),
    [
        ("src/trimtab/serving/x.py", "class GroupKeeper: ...", ["Keeper"]),
        ("src/trimtab/serving/x.py", "let_go_at = notKeeping = 1", ["let_go"]),
        ("src/trimtab/serving/x.py", "# trained\tanew, by whoever asked for it", ["anew", "whoever"]),
        ("src/trimtab/serving/x.py", "def f():\n    '''A step under\n    way.'''", ["under\n    way"]),
        ("src/trimtab/serving/x.py", "time.sleep(1)  # sleep until an answer", []),
        ("src/trimtab/serving/x.py", "it = 'it turns out, which is plain'", []),
        ("src/trimtab/serving/x.py", "turns = 1", ["turns"]),
        ("src/trimtab/stats/x.py", "turns = 1", []),
        ("src/trimtab/stats/x.py", "hindsight = 1  # a stored name", []),
        ("src/trimtab/stats/x.py", "it = 1  # `hindsight` is a stored name, hindsight a word", ["hindsight"]),
    ],
)
def test_words_are_found_where_they_stand(path: str, code: str, found: list[str]) -> None:
    parts = words.spans_of_python(code)
    assert [each.text for each in sorted(words.old_words_in(path, parts, words.rules()))] == found


@pytest.mark.fast
def test_link_targets_and_code_in_documents_are_no_prose() -> None:
    text = "Keep it, [anew](decisions/D0081-the-direct-road.md).\n\n```\nhindsight = 1\n```\n\nSee `hindsight`.\n"
    parts = words.spans_of_markdown(text)
    assert [each.text for each in words.old_words_in("docs/x.md", parts, words.rules())] == ["anew"]
