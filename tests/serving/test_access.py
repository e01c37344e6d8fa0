"""Keys, their rights and rates: who is let in, who is not, and what it costs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.serving import access_keys
from trimtab.serving.access_keys import AccessKeys, KeyFollower, Role, rate_per_s
from trimtab.serving.http.requests.access import NO_KEY, Access, request_id
from trimtab.serving.http.routes.address import Application, Router
from trimtab.serving.http.routes.addresses import PROJECT, SERVICE
from trimtab.serving.inference.rest import ADDRESSES as INFERENCE
from trimtab.serving.problems import Refused
from trimtab.store.ports import Append, Put
from trimtab.store.sql_catalog import SqlCatalog

RIGHTS: tuple[Role, ...] = ("read", "predict", "write", "admin")


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[AccessKeys]:
    catalog = SqlCatalog.sqlite(tmp_path / "catalog.db")
    yield AccessKeys(catalog, clock=VirtualClock(1_700_000_000_000_000))
    catalog.close()


def knowing(keys: AccessKeys, **given: Any) -> Access:
    access = Access(**given)
    access.take(keys.all(), keys.changes() > 0)
    return access


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"localhost:8117"), (b"authorization", f"Bearer {key}".encode())]


def refusal(access: Access, headers: Any, right: Role) -> Refused:
    with pytest.raises(Refused) as caught:
        access.admit(headers, right)
    return caught.value


LOCAL = [(b"host", b"127.0.0.1:8117")]


@pytest.mark.fast
def test_while_there_never_was_a_key_everybody_on_this_machine_may_do_everything(keys: AccessKeys) -> None:
    access = knowing(keys)
    assert not access.asks
    assert [access.admit(LOCAL, right) for right in RIGHTS] == [NO_KEY] * 4


def test_a_key_may_do_what_its_roles_say_and_admin_everything(keys: AccessKeys) -> None:
    made = {role: keys.add(f"of-{role}", [role]) for role in RIGHTS}
    both = keys.add("both", ["predict", "read"])
    access = knowing(keys)
    assert access.asks
    for role, key in made.items():
        for right in RIGHTS:
            if right == role or role == "admin":
                assert access.admit(bearer(key), right) == f"of-{role}"
            else:
                problem = refusal(access, bearer(key), right)
                assert problem.status == 403
                assert f'scope="{right}"' in dict(problem.headers)[b"www-authenticate"].decode()
    assert access.admit([(b"x-api-key", both.encode())], "read") == "both"
    assert access.admit(bearer(both), "predict") == "both"


def test_with_keys_nobody_is_let_in_without_one_or_with_another(keys: AccessKeys) -> None:
    key = keys.add("shop", ["predict"])
    access = knowing(keys)
    assert dict(refusal(access, LOCAL, "predict").headers)[b"www-authenticate"] == b'Bearer realm="trimtab"'
    wrong = ["", "x", key[:-1], key + "x", key.replace("trimtab", "trimtaB"), key.upper(), key[:20] + "_" + "A" * 43]
    for one in wrong:
        problem = refusal(access, bearer(one), "predict")
        assert (problem.status, b"invalid_token" in dict(problem.headers)[b"www-authenticate"]) == (401, True)
    assert refusal(access, [(b"authorization", b"Basic " + key.encode())], "predict").status == 401
    assert access.admit([(b"authorization", b"bEARER  " + key.encode())], "predict") == "shop"


@given(st.binary(max_size=120))
def test_no_bytes_are_a_key(presented: bytes) -> None:
    access = Access(required=True)
    assert refusal(access, [(b"authorization", b"Bearer " + presented)], "read").status == 401
    assert refusal(access, [(b"x-api-key", presented)], "read").status == 401


def test_the_last_key_that_is_removed_leaves_the_door_closed(keys: AccessKeys) -> None:
    key = keys.add("shop", ["admin"])
    keys.remove("shop")
    access = knowing(keys)
    assert refusal(access, bearer(key), "read").status == 401
    assert refusal(access, LOCAL, "read").status == 401


def test_require_key_closes_before_there_is_a_key_and_false_opens_all_but_administration(keys: AccessKeys) -> None:
    assert Access(required=True).asks
    assert refusal(knowing(keys, required=True), LOCAL, "read").status == 401
    key = keys.add("boss", ["admin"])
    access = knowing(keys, required=False)
    assert [access.admit(LOCAL, right) for right in RIGHTS[:3]] == [NO_KEY] * 3
    assert refusal(access, LOCAL, "admin").status == 403
    assert refusal(access, bearer(key + "x"), "predict").status == 401
    assert access.admit(bearer(key), "admin") == "boss"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "shop.example", ""])
def test_away_from_loopback_administration_needs_a_key(keys: AccessKeys, host: str) -> None:
    access = knowing(keys, host=host)
    assert access.admit(LOCAL, "predict") == NO_KEY
    problem = refusal(access, LOCAL, "admin")
    assert problem.status == 403
    assert "trimtab keys add NAME --role admin" in str(problem)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_another_hosts_name_or_page_may_not_administer_without_a_key(keys: AccessKeys, host: str) -> None:
    access = knowing(keys, host=host)
    assert access.admit([(b"host", b"[::1]:80"), (b"origin", b"http://[::1]:80")], "admin") == NO_KEY
    for headers in (
        [(b"host", b"evil.example")],
        [(b"host", b"localhost.evil.example")],
        [],
        [*LOCAL, (b"origin", b"http://evil.example")],
        [*LOCAL, (b"origin", b"null")],
    ):
        assert refusal(access, headers, "admin").status == 403


def test_a_rate_lets_so_many_through_and_says_when_to_come_again(keys: AccessKeys) -> None:
    slow, quick = keys.add("slow", ["predict"], rate="30/min"), keys.add("quick", ["predict"], rate="4/s")
    now = [100.0]
    access = knowing(keys, now_s=lambda: now[0], share=0.5)
    let: list[int] = []
    for tick in range(401):  # 40 s in tenths: at 2 a second for this one of two processes
        now[0] = 100.0 + tick / 10
        with suppress(Refused):
            access.admit(bearer(quick), "predict")
            let.append(tick)
    assert len(let) == 2 + 80
    now[0] = 1_000.0
    assert access.admit(bearer(slow), "predict") == "slow"
    problem = refusal(access, bearer(slow), "predict")
    assert dict(problem.headers)[b"retry-after"] == b"4"
    now[0] += 4
    assert access.admit(bearer(slow), "predict") == "slow"
    access.take(keys.all(), True)  # another key changed: what is left stays
    assert refusal(access, bearer(slow), "predict").status == 429


def test_what_is_remembered_is_bounded_and_forgotten_when_keys_change(keys: AccessKeys) -> None:
    key = keys.add("shop", ["predict"])
    access = knowing(keys)
    for n in range(5_000):
        assert access.admit([(b"x-api-key", key.encode() + b" " * n)], "predict") == "shop"
    assert len(access._seen) <= 4_096
    keys.remove("shop")
    access.take(keys.all(), True)
    assert refusal(access, bearer(key), "predict").status == 401


def test_the_catalogue_holds_no_key(tmp_path: Path) -> None:
    catalog = SqlCatalog.sqlite(tmp_path / "catalog.db")
    keys = AccessKeys(catalog, clock=VirtualClock(5))
    key = keys.add("shop", ["predict"], rate="5/s", actor="ann")
    found = keys.all()[0]
    assert (found.name, found.roles, found.rate, found.actor) == ("shop", ("predict",), "5/s", "ann")
    catalog.close()
    secret = key.split("_", 2)[2].encode()
    assert key.encode() not in (everything := b"".join(file.read_bytes() for file in tmp_path.iterdir()))
    assert secret not in everything
    assert re.fullmatch(r"trimtab_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key)


def test_nonsense_makes_no_key(keys: AccessKeys) -> None:
    for name in ("", "1a", "a b", "a\nb", "a" * 64, "é"):
        with pytest.raises(Misuse, match="name"):
            keys.add(name, ["read"])
    for roles in ([], ["root"]):
        with pytest.raises(Misuse, match="role"):
            keys.add("a", roles)  # type: ignore[arg-type]  # that is the test
    for rate in ("", "5", "0/s", "-1/s", "5/day", "nan/s"):
        with pytest.raises(Misuse, match="rate"):
            keys.add("a", ["read"], rate=rate)
    keys.add("a", ["read"])
    with pytest.raises(Conflict, match="keys remove a"):
        keys.add("a", ["read"])
    with pytest.raises(NotFound, match="There are: a"):
        keys.remove("b")
    assert rate_per_s(" 36 / h ") == 0.01


def test_a_watch_tells_of_changes(keys: AccessKeys) -> None:
    told: list[tuple[list[str], bool]] = []
    came = threading.Event()

    def tell(found: Any, ever: bool) -> None:
        told.append(([key.name for key in found], ever))
        came.set()

    with KeyFollower(keys, tell):
        assert told == [([], False)]
        for change in (lambda: keys.add("a", ["read"]), lambda: keys.remove("a")):
            came.clear()
            change()
            assert came.wait(30)
    assert told == [([], False), (["a"], True), ([], True)]


@pytest.mark.parametrize(
    "unreadable",
    [
        {"format": 2},
        {"roles": ["read", "explain"]},
        {"rate": "many"},
        {"sha256": None},
        b"\xff",
        b'{"name": "b',
        b'{"x": ' + b"[" * 5_000,
    ],
    ids=lambda given: str(given)[:20],
)
def test_a_key_that_cannot_be_read_is_refused_and_holds_up_no_other(
    keys: AccessKeys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, unreadable: Any
) -> None:
    """The thread that follows the keys ended with it, and a key that was removed afterwards was good for ever."""
    monkeypatch.setattr(access_keys, "_POLL_S", 0.01)
    made = {name: keys.add(name, ["read"]) for name in ("a", "b", "c")}
    access, came = Access(), threading.Event()

    def tell(found: Any, ever: bool) -> None:
        access.take(found, ever)
        came.set()

    def changed(change: Callable[[], object]) -> None:
        came.clear()
        change()
        assert came.wait(30)

    record = keys._catalog.get("access_key", "b")
    assert record is not None
    body = unreadable
    if isinstance(unreadable, dict):
        body = json.dumps(json.loads(record.body) | unreadable).encode()
    journal = Append("access_keys", 1, b"{}")
    with KeyFollower(keys, tell):
        assert access.admit(bearer(made["b"]), "read") == "b"
        changed(lambda: keys._catalog.write([Put("access_key", "b", body), journal]))
        assert refusal(access, bearer(made["b"]), "read").status == 401
        assert access.admit(bearer(made["a"]), "read") == "a"
        changed(lambda: keys.remove("a"))
        assert refusal(access, bearer(made["a"]), "read").status == 401
        assert access.admit(bearer(made["c"]), "read") == "c"
    assert len(caplog.records) == 1
    assert "access key 'b' cannot be read, and is refused" in caplog.text
    with KeyFollower(keys, tell):  # a service that begins with it
        assert access.admit(bearer(made["c"]), "read") == "c"
        assert [key.name for key in keys.all()] == ["c"]
        changed(lambda: keys.remove("b"))
    with pytest.raises(NotFound, match="There are: c"):
        keys.remove("b")
    keys.add("b", ["read"])


def test_a_watch_goes_on_after_any_fault(
    keys: AccessKeys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_keys, "_POLL_S", 0.01)
    told: list[int] = []
    came = threading.Event()

    def tell(found: Any, ever: bool) -> None:
        told.append(len(found))
        if len(told) == 2:
            raise RuntimeError("once")
        came.set()

    with KeyFollower(keys, tell):
        came.clear()
        keys.add("a", ["read"])
        assert came.wait(30)
    assert told == [0, 1, 1]
    assert "access keys cannot be read: once" in caplog.text


def test_each_address_needs_the_right_of_its_row_and_nothing_more_where_nothing_answers() -> None:
    router = Router()
    router.mount(Application(None, SERVICE, ""))
    router.mount(Application(None, PROJECT, ""))
    router.mount(Application(None, INFERENCE, "", prefix="/v2", slashes=True))

    def right_of(method: str, path: str) -> Role | None:
        return router.find(method, path).right

    assert right_of("POST", "/v1/models/a/aliases/champion/rollback") == "admin"
    assert right_of("PUT", "/v1/models/a/aliases/champion") == "admin"
    assert right_of("POST", "/v2/repository/models/a/load") == "admin"
    assert right_of("POST", "/v2/models/a/infer") == "predict"
    assert right_of("POST", "/v2/models/a/versions/2/infer/") == "predict"
    assert right_of("POST", "/v1/labels/a") == "write"
    assert right_of("GET", "/openapi.json") == "read"
    assert right_of("GET", "/docs") is None
    assert right_of("POST", "/docs") is None  # refused by its method, whoever the client is
    assert right_of("GET", "/v1/models/a/predict") == "predict"
    for method, path in (("DELETE", "/health/ready/x"), ("POST", "/v1/model/a/predict"), ("PUT", "/v1/labels/a")):
        match = router.find(method, path)
        assert (match.address, match.right) == (None, "read")


@given(st.binary(max_size=200))
def test_a_request_id_can_say_nothing_in_a_log(given: bytes) -> None:
    found = request_id([(b"x-request-id", given)])
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", found)
    assert found.encode() == given or len(found) == 32


ELSEWHERE: list[list[tuple[bytes, bytes]]] = [
    [(b"origin", b"https://shop.example")],
    [(b"origin", b"null")],
    [(b"origin", b"")],
    [(b"origin", b"http://127.0.0.1:3000")],
    [(b"origin", b"http://127.0.0.1:8117"), (b"origin", b"http://shop.example")],
    [(b"sec-fetch-site", b"cross-site")],
]


@pytest.mark.fast
@pytest.mark.parametrize("said", ELSEWHERE)
def test_a_page_of_another_site_adds_nothing_to_a_log_without_a_key(
    keys: AccessKeys, said: list[tuple[bytes, bytes]]
) -> None:
    for access in (knowing(keys), knowing(keys, required=False), knowing(keys, host="0.0.0.0")):
        assert access.let_in([*LOCAL, *said], "read") == NO_KEY
        for right in ("predict", "write", "admin"):
            with pytest.raises(Refused) as caught:
                access.let_in([*LOCAL, *said], right)  # type: ignore[arg-type]  # a right
            assert caught.value.status == 403
    made = keys.add("page", ["write"])
    with_keys = knowing(keys, required=False)
    assert with_keys.let_in([*LOCAL, *said, (b"x-api-key", made.encode())], "write") == "page"
    with pytest.raises(Refused):
        with_keys.let_in([*LOCAL, *said], "write")


def test_its_own_page_and_whoever_is_no_browser_ask_as_before(keys: AccessKeys) -> None:
    access = knowing(keys)
    own = [(b"origin", b"http://127.0.0.1:8117"), (b"sec-fetch-site", b"same-origin")]
    for said in ([], own, [(b"sec-fetch-site", b"none")], [(b"origin", b"https://x"), (b"x-api-key", b"of another")]):
        for right in ("predict", "write"):
            assert access.let_in([*LOCAL, *said], right) == NO_KEY  # type: ignore[arg-type]  # a right
