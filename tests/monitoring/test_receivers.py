"""Every kind of receiver, against real servers on this machine: what arrives, and what is said when nothing does."""

from __future__ import annotations

import hashlib
import hmac
import json
import resource
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certificates import chain
from receivers import HttpReceiver, http_receiver, mail_server
from trimtab.core.alert_settings import (
    CommandReceiver,
    EmailReceiver,
    FileReceiver,
    HeartbeatReceiver,
    Receiver,
    SlackReceiver,
    WebhookReceiver,
)
from trimtab.core.time import parse_time_us
from trimtab.monitoring.alerts.alert_records import Message, alert_of, title_of
from trimtab.monitoring.alerts.outbox import Sent
from trimtab.monitoring.alerts.receivers.sending import send
from trimtab.testing.builders import a_signal

AT_US = parse_time_us("2026-03-01T10:00:00Z")
SIGNAL = a_signal(
    AT_US, id="null_values/m/1", model="late_flight", message="Half of temp is null & <odd>.", subject="column temp"
)
ALERT = alert_of(SIGNAL, "begun", version="late_flight@7", owner="team weather", returned=0)
MESSAGE = Message(
    key="alert_1",
    kind="alerts",
    project="flights",
    at="2026-03-01T10:00:00Z",
    title=title_of([ALERT], "flights"),
    notes=[],
    alerts=[ALERT],
)


def sent(receiver: Receiver, folder: Path = Path(), **environment: str) -> Sent:
    return send(receiver, MESSAGE, folder=folder, environment=environment)


@pytest.fixture
def server() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


def test_a_webhook_gets_the_message_as_json_with_its_key(server: HttpReceiver) -> None:
    done = sent(WebhookReceiver(url=server.url, headers={"Authorization": "Bearer $TOKEN"}), TOKEN="t0p")
    assert done == Sent(True, "200 ok")
    [post] = server.got
    assert (post.method, post.key, post.headers["Authorization"]) == ("POST", "alert_1", "Bearer t0p")
    assert post.json["key"] == "alert_1"
    [alert] = post.json["alerts"]
    assert alert["version"] == "late_flight@7"
    assert alert["owner"] == "team weather"
    assert alert["look"] == ["trimtab status", "trimtab quality show late_flight"]
    assert "X-Trimtab-Signature" not in post.headers


def test_a_signed_webhook_can_be_checked_by_whoever_has_the_secret(server: HttpReceiver) -> None:
    sent(WebhookReceiver(url=server.url, secret="$KEY"), KEY="s3cret")
    [post] = server.got
    wanted = "sha256=" + hmac.new(b"s3cret", post.body, hashlib.sha256).hexdigest()
    assert post.headers["X-Trimtab-Signature"] == wanted


def test_slack_gets_one_text_in_which_nothing_is_markup_by_accident(server: HttpReceiver) -> None:
    assert sent(SlackReceiver(url="$URL"), URL=server.url).ok
    [post] = server.got
    assert list(post.json) == ["text"]
    text = post.json["text"]
    assert text.startswith("*RED late_flight@7: null_values, column temp*")
    assert "Half of temp is null &amp; &lt;odd&gt;." in text
    assert "owner: team weather" in text
    assert "look: trimtab status; trimtab quality show late_flight" in text


def test_an_answer_that_is_no_success_is_a_failure_with_what_it_said() -> None:
    with http_receiver(503, headers={"Retry-After": "120"}) as server:
        assert sent(WebhookReceiver(url=server.url)) == Sent(False, "the receiver answered 503 ok", 120.0)


def test_a_redirect_is_not_followed_for_it_would_lose_the_body() -> None:
    with http_receiver(302, headers={"Location": "/elsewhere"}) as server:
        done = sent(WebhookReceiver(url=server.url))
        assert (done.ok, len(server.got)) == (False, 1)
    assert "final address" in done.said


def test_a_receiver_that_hangs_is_given_up_in_time() -> None:
    with http_receiver("hang") as server:
        done = sent(WebhookReceiver(url=server.url, timeout="300ms"))
    assert done == Sent(False, "127.0.0.1 gave no answer within 0.3 s")


def test_a_receiver_that_closes_the_connection_is_a_failure() -> None:
    with http_receiver("close") as server:
        done = sent(WebhookReceiver(url=server.url))
    assert not done.ok
    assert done.said.startswith("127.0.0.1: ")


def test_nobody_listening_is_a_failure() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = sent(WebhookReceiver(url=f"http://127.0.0.1:{free.getsockname()[1]}/"))
    assert not done.ok
    assert "refused" in done.said


def test_a_heartbeat_is_asked_by_get(server: HttpReceiver) -> None:
    assert sent(HeartbeatReceiver(url=server.url)).ok
    assert [(one.method, one.body) for one in server.got] == [("GET", b"")]


@pytest.mark.parametrize(
    "receiver",
    [
        SlackReceiver(url="$MISSING"),
        WebhookReceiver(url="http://127.0.0.1:9/", secret="$MISSING"),
        EmailReceiver(host="127.0.0.1", sender="a@b.c", to=["d@e.f"], port=9, user="$MISSING", password="$MISSING"),
    ],
)
def test_a_variable_that_is_not_set_is_named(receiver: Receiver) -> None:
    with mail_server() as server:
        if isinstance(receiver, EmailReceiver):
            receiver = EmailReceiver(
                host="127.0.0.1",
                sender="a@b.c",
                to=["d@e.f"],
                port=server.port,
                security="none",
                user="u",
                password="$MISSING",
            )
        done = sent(receiver)
    assert done == Sent(False, "the environment variable MISSING is not set. Set it for the process that sends alerts.")


@pytest.mark.parametrize(
    "url", ["ftp://s3cret/", "s3cret", "http:s3cret", "http://a s3cret/", "http://x/\nHost: s3cret"]
)
def test_nonsense_in_the_environment_is_no_address_and_is_not_shown(url: str) -> None:
    done = sent(SlackReceiver(url="$URL"), URL=url)
    assert not done.ok
    assert "not an address" in done.said
    assert "s3cret" not in done.said


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server's side of TLS; this process trusts its certificate."""
    cert, key = chain(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(cert, key)
    return made


def test_https_needs_a_certificate_that_can_be_verified(
    context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_receiver(context=context) as server:
        assert sent(WebhookReceiver(url=server.url)) == Sent(True, "200 ok")
        monkeypatch.delenv("SSL_CERT_FILE")
        done = sent(WebhookReceiver(url=server.url))
        assert not done.ok
        assert "CERTIFICATE_VERIFY_FAILED" in done.said
        assert len(server.got) == 1


# --- mail


def mail_to(port: int, **more: Any) -> EmailReceiver:
    return EmailReceiver(
        host="localhost", sender="trimtab@example.com", to=["team@example.com", "boss@example.com"], port=port, **more
    )


def test_a_mail_is_handed_over_with_an_id_that_stays_the_same() -> None:
    with mail_server() as server:
        for _ in range(2):
            assert sent(mail_to(server.port, security="none")).ok
    first, second = server.mails
    assert first["Message-ID"] == second["Message-ID"] == "<alert_1@trimtab>"
    assert first["Subject"] == "RED late_flight@7: null_values, column temp"
    assert first["To"] == "team@example.com, boss@example.com"
    assert "Half of temp is null & <odd>." in first.get_content()


def test_a_login_is_sent_after_starttls_alone(context: ssl.SSLContext) -> None:
    with mail_server(context=context, login=("trimtab", "s3cret")) as server:
        done = sent(mail_to(server.port, user="trimtab", password="$MAIL"), MAIL="s3cret")
    assert done == Sent(True, "accepted for team@example.com, boss@example.com")
    assert server.secure == [True]


def test_a_wrong_password_is_a_failure_that_does_not_show_it(context: ssl.SSLContext) -> None:
    with mail_server(context=context, login=("trimtab", "s3cret")) as server:
        done = sent(mail_to(server.port, user="trimtab", password="$MAIL"), MAIL="wr0ng")
    assert done == Sent(False, "localhost: 535 5.7.8 wrong password")
    assert server.mails == []


def test_a_server_without_starttls_gets_nothing_in_the_clear() -> None:
    with mail_server(login=("trimtab", "s3cret")) as server:
        done = sent(mail_to(server.port, user="trimtab", password="$MAIL"), MAIL="s3cret")
    assert not done.ok
    assert "STARTTLS" in done.said
    assert server.mails == []


def test_a_certificate_that_nobody_vouches_for_is_refused(
    context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with mail_server(context=context) as server:
        done = sent(mail_to(server.port))
    assert not done.ok
    assert "CERTIFICATE_VERIFY_FAILED" in done.said
    assert server.mails == []


def test_a_mail_that_some_recipients_get_is_not_sent_to_them_again() -> None:
    with mail_server() as server:
        server.refused = {"boss@example.com"}  # type: ignore[misc]  # of this server alone
        done = sent(mail_to(server.port, security="none"))
        assert done.ok
        assert "but not for boss@example.com (550 no such mailbox)" in done.said
        server.refused = {"example.com"}  # type: ignore[misc]
        assert not sent(mail_to(server.port, security="none")).ok


def test_a_mail_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        receiver = EmailReceiver(
            host="127.0.0.1",
            sender="a@b.c",
            to=["d@e.f"],
            port=silent.getsockname()[1],
            security="none",
            timeout="300ms",
        )
        assert sent(receiver) == Sent(False, "127.0.0.1 gave no answer within 0.3 s")


# --- this machine


def test_a_file_gets_a_line_for_each_alert(tmp_path: Path) -> None:
    receiver = FileReceiver(path="alerts.jsonl")
    assert sent(receiver, tmp_path).ok
    assert sent(receiver, tmp_path).ok
    first, second = map(json.loads, (tmp_path / "alerts.jsonl").read_text().splitlines())
    assert first == second
    assert (first["key"], first["alert"]["subject"]) == ("alert_1", "column temp")


def test_a_file_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    assert not sent(FileReceiver(path="nowhere/alerts.jsonl"), tmp_path).ok
    assert sent(FileReceiver(path="."), tmp_path) == Sent(False, f"{tmp_path} is a folder, needed a file")


def test_a_full_disk_is_a_failure() -> None:
    done = sent(FileReceiver(path="/dev/full"))
    assert not done.ok


def test_a_line_that_is_cut_off_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    receiver, limits = FileReceiver(path="alerts.jsonl"), resource.getrlimit(resource.RLIMIT_FSIZE)
    assert sent(FileReceiver(path="other.jsonl"), tmp_path).ok  # imports modules, whose bytecode must not be cut off
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        cut = sent(receiver, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not cut.ok
    assert "only 100 of" in cut.said
    assert sent(receiver, tmp_path).ok
    assert [json.loads(line)["key"] for line in (tmp_path / "alerts.jsonl").read_text().splitlines()] == ["alert_1"]


def program(*words: str, **more: Any) -> CommandReceiver:
    return CommandReceiver(command=[sys.executable, "-c", *words], **more)


def test_a_command_gets_the_message_on_standard_input_and_the_key_in_its_environment(tmp_path: Path) -> None:
    code = (
        "import json, os, sys; m = json.load(sys.stdin); print(m['title'])\n"
        "assert m['key'] == os.environ['TRIMTAB_ALERT_KEY']"
    )
    done = sent(program(code), tmp_path)
    assert done == Sent(True, "exit status 0: RED late_flight@7: null_values, column temp")


def test_a_command_runs_in_the_projects_folder(tmp_path: Path) -> None:
    sent(program("open('here', 'w').close()"), tmp_path)
    assert (tmp_path / "here").is_file()


def test_a_command_that_fails_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    done = sent(program("import sys; print('first', flush=True); sys.exit('no route to pager')"), tmp_path)
    assert done == Sent(False, "exit status 1: no route to pager")


def test_a_command_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('pid', 'w').write(str(child.pid)); child.wait()"
    )
    done = sent(program(code, timeout="2s"), tmp_path)
    assert not done.ok
    assert "did not end within 2 s" in done.said
    from processes import eventually, is_alive

    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not is_alive(pid))


def test_a_command_that_reads_nothing_and_prints_a_lot_is_a_delivery(tmp_path: Path) -> None:
    done = sent(program("print('x' * 10_000_000); print('done')"), tmp_path)
    assert done == Sent(True, "exit status 0: done")


def test_a_command_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    done = sent(CommandReceiver(command=["./no-such-program"]), tmp_path)
    assert done == Sent(False, "./no-such-program: No such file or directory")
