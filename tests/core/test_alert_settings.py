"""Settings of alerts: what may be there, and how what may not is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.app.features.project_spec import ProjectSpec
from trimtab.core.alert_settings import (
    KINDS,
    CommandReceiver,
    EmailReceiver,
    FileReceiver,
    HeartbeatReceiver,
    Receiver,
    SlackReceiver,
    WebhookReceiver,
)
from trimtab.core.config import Config, load_config
from trimtab.core.errors import Misuse

EVERY_KIND = """
[alerts]
pages_per_week = 3
flapping = "2h"

[alerts.receivers.team]
kind = "slack"
url = "$SLACK_URL"
severity = "info"
models = ["late_flight"]

[alerts.receivers.pager]
kind = "webhook"
url = "https://events.example.com/v2/enqueue"
secret = "$PAGER_SECRET"
headers = {Authorization = "Token $PAGER_TOKEN"}
tell = ["begun", "graver"]

[alerts.receivers.mail]
kind = "email"
host = "smtp.example.com"
from = "trimtab@example.com"
to = ["ml@example.com"]
user = "trimtab"
password = "$SMTP_PASSWORD"

[alerts.receivers.log]
kind = "file"
path = "alerts.jsonl"

[alerts.receivers.script]
kind = "command"
command = ["./page.sh", "--now"]
timeout = "30s"

[alerts.receivers.alive]
kind = "heartbeat"
url = "https://hc.example.com/uuid"
every = "5min"
"""


def loaded(folder: Path, text: str) -> Config:
    (folder / "trimtab.toml").write_text(text)
    return load_config(folder, {})


def test_every_kind_of_receiver_may_be_declared(tmp_path: Path) -> None:
    settings = loaded(tmp_path, EVERY_KIND).alerts
    kinds = [WebhookReceiver, SlackReceiver, EmailReceiver, FileReceiver, CommandReceiver, HeartbeatReceiver]
    assert {type(one) for one in settings.receivers.values()} == set(kinds) == set(Receiver.__args__)  # type: ignore[attr-defined]
    assert {one.__struct_config__.tag for one in kinds} == set(KINDS)
    mail = settings.receivers["mail"]
    assert isinstance(mail, EmailReceiver)
    assert (mail.sender, mail.port_used, mail.severity, mail.tell) == (
        "trimtab@example.com",
        587,
        "red",
        ("begun", "graver", "ended"),
    )
    assert list(settings.heartbeats) == ["alive"]
    assert "alive" not in settings.addressees


def test_another_process_has_the_same_receivers(tmp_path: Path) -> None:
    config = loaded(tmp_path, EVERY_KIND)
    assert ProjectSpec.of(config, tmp_path).config == config


def test_no_secret_of_the_environment_is_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "trimtab.toml").write_text(EVERY_KIND)
    config = load_config(tmp_path, {"SLACK_URL": "https://hooks/s3cret", "SMTP_PASSWORD": "s3cret"})
    assert "s3cret" not in repr(config)


SLACK = '[alerts.receivers.team]\nkind = "slack"\n'
MAIL = '[alerts.receivers.team]\nkind = "email"\nhost = "h"\nfrom = "a@b.c"\nto = ["d@e.f"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[alerts]\npages_per_week = -1", "pages_per_week must be 0 or more, not -1 - at `$.alerts`"),
        ("[alerts]\npages_per_week = 1.5", "$.alerts.pages_per_week"),
        ('[alerts]\ndigest = "0s"', 'digest = "0s": give "1min" or more'),
        ('[alerts]\nkeep = "soon"', "keep: 'soon' is not a duration"),
        ('[alerts]\nflapping = "-1h"', "flapping: '-1h' is not a duration"),
        ("[alerts]\nflapping = 6", "Expected `str`, got `int` - at `$.alerts.flapping`"),
        ("[alerts]\npages = 3", "unknown field `pages` - at `$.alerts`"),
        ("[alerts]\nreceivers = 3", "$.alerts.receivers"),
        ("[alerts.receivers]\nteam = 3", "$.alerts.receivers.team"),
        (
            f'{SLACK}url = "https://x.y/"\n[alerts.receivers."no name"]\nkind = "file"\npath = "p"',
            "'no name' is not a valid name",
        ),
        (
            '[alerts.receivers.team]\nurl = "https://x.y/"',
            "missing required field `kind` - at `$.alerts.receivers.team`",
        ),
        (
            '[alerts.receivers.team]\nkind = "slak"',
            "'slak' - at `$.alerts.receivers.team.kind`; give one of 'command', 'em",
        ),
        (SLACK, "missing required field `url` - at `$.alerts.receivers.team`"),
        (f'{SLACK}url = "https://x.y/"\nsecrt = "$A"', "unknown field `secrt` - at `$.alerts.receivers.team`"),
        (f'{SLACK}url = ""', "url is empty"),
        (f'{SLACK}url = "hooks.slack.com/x"', "url: give an address such as"),
        (f'{SLACK}url = "ftp://x.y/"', "url: give an address such as"),
        (f'{SLACK}url = "https://"', "url: give an address such as"),
        (f'{SLACK}url = "https://x.y:99999/"', "url: give an address such as"),
        (f'{SLACK}url = "https://x.y/\\n"', "url is empty, or has"),
        (f'{SLACK}url = "$"', 'url: a $ begins the name of an environment variable, "$NAME"'),
        (f'{SLACK}url = "$A"\nseverity = "yellow"', "; give one of 'info', 'red'"),
        (f'{SLACK}url = "$A"\ntell = ["start"]', "receivers.team.tell[0]`; give one of 'begun', 'graver', 'ended'"),
        (f'{SLACK}url = "$A"\ntell = []', "tell is empty"),
        (f'{SLACK}url = "$A"\ntimeout = "0s"', 'timeout = "0s": give more than 0 and at most "30s"'),
        (f'{SLACK}url = "$A"\ntimeout = "1h"', 'timeout = "1h": give more than 0 and at most "30s"'),
        (f'{SLACK}url = "$A"\ntimeout = "x"', "timeout: 'x' is not a duration"),
        (f'{SLACK}url = "$A"\nmodels = "m"', "$.alerts.receivers.team.models"),
        (
            '[alerts.receivers.a]\nkind = "webhook"\nurl = "$A"\nsecret = "s3cret"',
            "secret is a secret: put it into an env",
        ),
        ('[alerts.receivers.a]\nkind = "webhook"\nurl = "$A"\nheaders = {"X Y" = "1"}', "'X Y' is not a header name"),
        (
            '[alerts.receivers.a]\nkind = "webhook"\nurl = "$A"\nheaders = {X = "1\\r\\nHost: y"}',
            "headers.X is empty, or",
        ),
        (f'{MAIL}user = "u"\npassword = "p"', "password is a secret"),
        (f'{MAIL}user = "u"\npassword = "$"', "password is a secret"),
        (f'{MAIL}user = "u"', "user and password need each other"),
        (f"{MAIL}port = 0", "port must be 1 to 65535, not 0"),
        (f'{MAIL}security = "ssl"', "; give one of 'starttls', 'tls', 'none'"),
        (MAIL.replace('["d@e.f"]', "[]"), "to is empty"),
        (MAIL.replace("d@e.f", "team"), "to: 'team' is not an e-mail address"),
        (MAIL.replace("a@b.c", "a@b.c\\nBcc: x@y.z"), "from is empty, or has"),
        ('[alerts.receivers.a]\nkind = "command"\ncommand = []', "command: give the program and its arguments"),
        ('[alerts.receivers.a]\nkind = "command"\ncommand = "page.sh"', "$.alerts.receivers.a.command"),
        ('[alerts.receivers.a]\nkind = "file"\npath = ""', "path: '' is not a file name"),
        ('[alerts.receivers.a]\nkind = "heartbeat"\nurl = "$A"\nevery = "0s"', 'every = "0s": give "1s" or more'),
        ('[alerts.receivers.a]\nkind = "heartbeat"\nurl = "$A"\nseverity = "red"', "unknown field `severity`"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Misuse) as refused:
        loaded(tmp_path, text)
    assert said in str(refused.value)
    assert "trimtab.toml" in str(refused.value)
    assert "s3cret" not in str(refused.value)
