"""gRPC of a served project: by the setting `serve.grpc_port`, beside HTTP in every process that answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from trimtab.core.errors import Misuse
from trimtab.serving.http.server.tls import Tls, tls_context

if TYPE_CHECKING:
    from trimtab.app.system import System
    from trimtab.serving.http.service import Beside, HttpService

MakeBeside: TypeAlias = "Callable[[HttpService], Beside]"


class GrpcAddress(msgspec.Struct, frozen=True):
    """Where gRPC is listened for."""

    host: str
    port: int  # 0: any free one
    shared: bool = False  # by several processes


def grpc_address(system: System, host: str, port: int | None, workers: int) -> GrpcAddress | None:
    """Where to listen, by an option or the setting; None: nowhere.

    Raises:
        Misuse: Several processes would listen on ports of their own.
    """
    port = system.config.serve.grpc_port if port is None else port
    if port is None:
        return None
    if workers > 1 and port == 0:
        raise Misuse(
            f"gRPC: {workers} workers have one port, and 0 would give each its own. Name a port (--grpc-port)."
        )
    return GrpcAddress(host, port, workers > 1)


def grpc_beside(
    address: GrpcAddress | None, tls: Tls | None, announce: Callable[[str], object] | None = None
) -> MakeBeside | None:
    """What makes the gRPC server of a service.

    Args:
        address: Where; None: nowhere.
        tls: With it only TLS is spoken.
        announce: Called with the address when requests are taken.
    """
    if address is None:
        return None
    certificate = _certificate(tls)

    def make(service: HttpService) -> Beside:
        from trimtab.serving.inference.grpc_server import GrpcServer

        return GrpcServer(
            service.inference,
            access=service.access,
            count=service.count,
            watch=service.watch,
            host=address.host,
            port=address.port,
            certificate=certificate,
            shared=address.shared,
            announce=announce,
        )

    return make


def check_grpc(address: GrpcAddress | None, tls: Tls | None) -> None:
    """Refuse what every worker would refuse, before the first of them starts.

    Whoever has no worker yet shares the port with nobody: beside the workers of another service, ours would get some of
    its requests, and its workers some of ours.

    Raises:
        Misuse: The certificate cannot be used.
        Unavailable: The port is taken, or the address is not this machine's.
    """
    if address is None:
        return
    from trimtab.serving.inference.grpc_server import check_free

    _certificate(tls)
    check_free(address.host, address.port, shared=False)


def _certificate(tls: Tls | None) -> tuple[bytes, bytes] | None:
    """Private key and certificate, as HTTPS has them.

    Raises:
        Misuse: They cannot be used, or a newer TLS is asked for than gRPC can be held to.
    """
    if tls is None:
        return None
    if tls.least != "1.2":
        raise Misuse(f"gRPC: tls_min={tls.least!r}, but gRPC takes TLS 1.2 too. Serve without gRPC, or set 1.2.")
    tls_context(tls)  # says what is wrong with the files
    return (tls.key or tls.cert).read_bytes(), tls.cert.read_bytes()
