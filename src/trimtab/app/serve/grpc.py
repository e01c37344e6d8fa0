"""Serve gRPC next to HTTP, in every process that answers, if a gRPC port is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from trimtab.app.system import System
from trimtab.core.errors import Misuse
from trimtab.serving.http.lifecycle import Server
from trimtab.serving.http.server.tls import Tls, tls_context
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.inferring import InferenceService

MakeGrpc: TypeAlias = "Callable[[HttpService, InferenceService], Server]"


class GrpcAddress(msgspec.Struct, frozen=True):
    """The address at which the gRPC server listens."""

    host: str
    port: int  # 0: any free port
    shared: bool = False  # whether several processes listen at the same port


def grpc_address(system: System, host: str, port: int | None, workers: int) -> GrpcAddress | None:
    """Return the gRPC address from the option or the settings; None if gRPC is off.

    Raises:
        Misuse: The port is 0, so that each of several processes would get another port.
    """
    port = system.config.serve.grpc_port if port is None else port
    if port is None:
        return None
    if workers > 1 and port == 0:
        raise Misuse(
            f"gRPC: {workers} workers share one port, but port 0 would give each its own. Give a port (--grpc-port)."
        )
    return GrpcAddress(host, port, workers > 1)


def grpc_server(
    address: GrpcAddress | None, tls: Tls | None, announce: Callable[[str], object] | None = None
) -> MakeGrpc | None:
    """Return a function that makes the gRPC server of a service, or None for no gRPC.

    Args:
        address: The address at which to listen, or None for no gRPC.
        tls: The certificate. If there is one, only TLS connections are accepted.
        announce: Called with the address as soon as requests are accepted.
    """
    if address is None:
        return None
    certificate = _certificate(tls)

    def make(service: HttpService, inference: InferenceService) -> Server:
        from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer

        listener = GrpcListener(address.host, address.port, certificate, address.shared, announce)
        return GrpcServer(inference, service.count, listener)

    return make


def check_grpc(address: GrpcAddress | None, tls: Tls | None) -> None:
    """Check the gRPC settings before any worker starts, so that an error is reported once.

    The port must not be in use by another service. If workers of two services shared it, each service would get some of
    the other's requests.

    Raises:
        Misuse: The certificate cannot be used.
        Unavailable: The port is taken, or the address does not belong to this machine.
    """
    if address is None:
        return
    from trimtab.serving.inference.grpc_server import check_free

    _certificate(tls)
    check_free(address.host, address.port, shared=False)


def _certificate(tls: Tls | None) -> tuple[bytes, bytes] | None:
    """Return the private key and the certificate, which are those of HTTPS."""
    if tls is None:
        return None
    if tls.least != "1.2":
        raise Misuse(f"gRPC: tls_min={tls.least!r}, but gRPC always accepts TLS 1.2. Serve without gRPC, or set 1.2.")
    tls_context(tls)  # raises an error if the files are wrong
    return (tls.key or tls.cert).read_bytes(), tls.cert.read_bytes()
