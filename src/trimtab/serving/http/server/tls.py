"""HTTPS: load a certificate and its private key, and choose the oldest allowed version of TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Literal

import msgspec

from trimtab.core.errors import Misuse


class Tls(msgspec.Struct, frozen=True):
    """The PEM files of a certificate and its key."""

    cert: Path  # the certificate and its chain
    key: Path | None  # the private key; None if it is in the file of the certificate
    least: Literal["1.2", "1.3"] = "1.2"


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return the TLS context for these files.

    Raises:
        Misuse: A file cannot be read or is not PEM, or the key belongs to another certificate or has a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.least == "1.3" else ssl.TLSVersion.TLSv1_2
    files = f"serve.tls_cert {tls.cert}" + ("" if tls.key is None else f", serve.tls_key {tls.key}")
    try:
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except (OSError, ssl.SSLError, _HasPasswordError) as error:
        raise Misuse(
            f"{files}: {error}. Give a certificate and its private key, both in PEM; the key must have no password."
        ) from error
    return context


class _HasPasswordError(Exception):
    """The private key is encrypted with a password."""


def _no_password() -> str:
    raise _HasPasswordError("the key has a password")
