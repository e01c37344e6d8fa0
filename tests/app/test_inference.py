"""`trimtab serve --grpc-port`: an unmodified tritonclient lists, looks and infers; one row and many, the same bits."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import shop

import forked
from trimtab.app.project import open_project
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_time

AS_OF = format_time(shop.NOW_US)
ROWS = [{"visit_id": f"t{n}", "site": ("north", "south")[n % 2], "at": AS_OF, "x": n / 7 - 1} for n in range(100)]


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[dict[str, str]]:
    """`trimtab serve`, and where it says it is."""
    command = [sys.executable, "-c", "from trimtab.cli import main; main()", "serve", "--port", "0", "--json"]
    process = forked.Popen(
        [*command, "--as-of", AS_OF, *arguments],
        cwd=folder,
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield json.loads(line)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def asked(where: dict[str, str], *secrets: str) -> dict[str, Any]:
    script = Path(__file__).with_name("inference_client.py")
    command = [sys.executable, str(script), where["url"], where["grpc"], json.dumps(ROWS), *secrets]
    done = forked.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def boosted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose champion is LightGBM's: a row has the same bits alone and among others."""
    pytest.importorskip("lightgbm")
    folder = shop.write_project(tmp_path_factory.mktemp("boosted") / "project")
    text = (folder / "project.py").read_text()
    text = text.replace("from sklearn.linear_model import LogisticRegression", "from lightgbm import LGBMClassifier")
    text = text.replace("return LogisticRegression()", "return LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1)")
    (folder / "project.py").write_text(text)
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("buyer")
    return folder


def test_tritonclient_and_v1_and_the_process_give_the_same_bits(boosted: Path) -> None:
    pytest.importorskip("tritonclient")
    with serving(boosted, "--grpc-port", "0") as where:
        found = asked(where)
        v1 = shop.call(f"{where['url']}/v1/models/buyer/predict", {"rows": ROWS})[1]["predictions"]
        scores = [one["score"] for one in v1]
        for library in ("http", "grpc"):
            told = found[library]
            assert (told["model"], told["ready"]) == ("buyer", [True, True, True])
            assert f"buyer@{told['version']}" == v1[0]["version"]
            assert told["scores"] == told["one_by_one"] == scores
    assert len(set(scores)) > 10
    with shop.opened(boosted, shop.NOW_US + DAY_US) as project:
        for library in ("http", "grpc"):
            logged = [project.predictions.find(one).score for one in found[library]["ids"]]
            assert logged == scores
    with shop.opened(boosted) as project:
        assert [one.score for one in project.predict("buyer", ROWS)] == scores


def test_workers_share_the_port_of_grpc(boosted: Path) -> None:
    pytest.importorskip("tritonclient")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(boosted, "--workers", "2", "--grpc-port", str(port)) as where:
        assert where["grpc"] == f"127.0.0.1:{port}"
        found = asked(where)
        assert found["grpc"]["scores"] == found["http"]["scores"]


def test_grpc_has_the_certificate_and_the_keys_of_http(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient")
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    both = tmp_path / "both.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    made += ["-keyout", str(both), "-out", str(both), "-subj", "/CN=localhost"]
    subprocess.run([*made, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    with shop.opened(trained) as project:
        key = project.keys.add("client", ["read", "predict"])
    (trained / "trimtab.toml").write_text(f'[serve]\ngrpc_port = 0\ntls_cert = "{both}"\n')
    with serving(trained) as where:
        found = asked(where, str(both), key)
    for library, status in (("http", "401"), ("grpc", "StatusCode.UNAUTHENTICATED")):
        told = found[library]
        assert (told["live"], told["ready"]) == (True, [True, True, True])
        assert told["refused"].startswith(f"{status} a key is needed")
        assert told["not_unloaded"].startswith(f"{status} a key is needed")
        assert told["unknown"].startswith(f"{status} the key is not known")
        assert told["scores"] == found["http"]["scores"]


def test_what_cannot_be_listened_on_is_refused_before_anything_is_served(boosted: Path) -> None:
    with open_project(boosted, environment={}) as project:
        with pytest.raises(Misuse, match="0 would give each its own"):
            project.serve(workers=2, grpc_port=0)
        assert project.config.serve.grpc_port is None


def test_a_port_of_grpc_that_is_taken_is_refused_in_one_line_before_a_worker_starts(boosted: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-c", "from trimtab.cli import main; main()", "serve", "--port", "0"]
        command += ["--workers", "2", "--grpc-port", port]
        given = {"cwd": boosted, "env": shop.environment()}
        done = forked.run(command, capture_output=True, text=True, timeout=60, check=False, **given)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (5, "", 1), done.stderr
    assert f"gRPC on 127.0.0.1:{port}: cannot be listened on (Address already in use)" in done.stderr
