"""Certificates as a signer gives them."""

from __future__ import annotations

import subprocess
from pathlib import Path


def chain(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost with the one that signed it, but not the root; and its key."""
    _made(folder, "root", None)
    _made(folder, "signer", "root", "basicConstraints=critical,CA:TRUE")
    signed(folder, "localhost")
    whole = folder / "chain.pem"
    whole.write_bytes((folder / "localhost.pem").read_bytes() + (folder / "signer.pem").read_bytes())
    return whole, folder / "localhost.key"


def signed(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of that name by the signer of the chain in `folder`, and its key."""
    _made(folder, name, "signer", "basicConstraints=critical,CA:FALSE", f"subjectAltName=DNS:{name}")
    return folder / f"{name}.pem", folder / f"{name}.key"


def _made(folder: Path, name: str, signer: str | None, *extensions: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}"]
    command += [] if signer is None else ["-CA", f"{signer}.pem", "-CAkey", f"{signer}.key"]
    command += [word for extension in extensions for word in ("-addext", extension)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
