"""The live view over HTTPS: which certificates it trusts, and what it says of those it cannot."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import shop
from alias_moves import CLI

import certificates
import forked

FIGURES = b"trimtab_answered_requests_total 1\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(FIGURES), FIGURES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def chain(folder: Path) -> tuple[Path, Path]:
    return certificates.chain(folder)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return shop.write_project(tmp_path / "project")


@contextlib.contextmanager
def figures(certificate: tuple[Path, Path]) -> Iterator[int]:
    """The port of a server that gives figures over HTTPS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                with (
                    contextlib.suppress(OSError),
                    listener.accept()[0] as plain,
                    context.wrap_socket(plain, server_side=True) as connection,
                ):
                    connection.recv(10_000)
                    connection.sendall(ANSWER)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def top(project: Path, *words: str, settings: str = "") -> subprocess.CompletedProcess[str]:
    (project / "trimtab.toml").write_text(settings)
    command = [*CLI, "service", "top", "--once", "--every", "0.2", *words]
    return forked.run(
        command, cwd=project, env=shop.environment(), capture_output=True, text=True, timeout=60, check=False
    )


def test_a_chain_without_its_root_is_trusted(project: Path, chain: tuple[Path, Path]) -> None:
    with figures(chain) as port:
        done = top(project, settings=f'[serve]\nport = {port}\ntls_cert = "{chain[0]}"\n')
    assert (done.returncode, done.stderr) == (0, "")
    with figures(chain) as port:
        done = top(project, "--url", f"https://localhost:{port}", "--cafile", str(chain[0]))
    assert (done.returncode, done.stderr) == (0, "")


def test_what_else_a_signer_of_the_certificate_signed_is_not_trusted(
    project: Path, folder: Path, chain: tuple[Path, Path]
) -> None:
    with figures(certificates.signed(folder, "elsewhere")) as port:
        done = top(project, settings=f'[serve]\nport = {port}\ntls_cert = "{chain[0]}"\n')
    assert (done.returncode, "its certificate is not trusted" in done.stderr) == (5, True), done.stderr
    with figures(chain) as port:
        done = top(project, "--url", f"https://127.0.0.1:{port}", "--cafile", str(chain[0]))
    assert (done.returncode, "a host name that is in it" in done.stderr) == (5, True), done.stderr


def test_a_certificate_that_is_not_trusted_is_named_as_that(project: Path, chain: tuple[Path, Path]) -> None:
    with figures(chain) as port:
        done = top(project, "--url", f"https://localhost:{port}")
    assert (done.returncode, "no service answers" in done.stderr) == (5, False)
    assert "its certificate is not trusted" in done.stderr
    assert "--cafile FILE" in done.stderr


@pytest.mark.parametrize(
    "content", [None, "no certificate", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"]
)
def test_a_file_without_a_certificate_is_named(project: Path, content: str | None) -> None:
    if content is not None:
        (project / "own.pem").write_text(content)
    settings = '[serve]\ntls_cert = "own.pem"\ntls_key = "own.key"\n'
    for words, said in (((), "serve.tls_cert"), (("--cafile", "own.pem"), "--cafile own.pem")):
        done = top(project, *words, settings=settings)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert "should not happen" not in done.stderr
