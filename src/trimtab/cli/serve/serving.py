"""The command `serve`, which runs the HTTP service."""

from __future__ import annotations

import click

from trimtab.cli.loop.planning import say_first
from trimtab.cli.options import command, manner, opened_project
from trimtab.cli.output import show_json, show_lines
from trimtab.cli.printed import Served


@command("serve", safe="Every answer that was given is logged.")
@click.option("--host", metavar="ADDRESS", help="Address to listen on (default: the setting serve.host).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port; 0 takes a free one (default: serve.port).")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that answer (default: serve.workers).")
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65_535),
    help="Port of the Open Inference Protocol over gRPC (default: serve.grpc_port).",
)
@click.option("--as-of", metavar="TIME", help="Start the clock at this time, to serve a replayed history.")
def serve(host: str | None, port: int | None, workers: int | None, grpc_port: int | None, as_of: str | None) -> None:
    """Answer over HTTP until stopped.

    After Ctrl-C or SIGTERM, requests in flight are finished, and the exit status is 0. A second signal ends the service
    at once.

    \b
    Example:
      trimtab serve --port 8117
    """
    import os

    from trimtab.serving.workers.worker import environment

    # set before the project file imports libraries that read these variables  # D92
    os.environ.update(environment(os.environ))
    from trimtab.serving.http.requests.threads import exit_now

    manner().end = exit_now
    json = manner().json
    grpc: list[str] = []

    def ready(url: str) -> None:
        if json:
            show_json(Served(url=url, grpc=grpc[0] if grpc else None))
        else:
            also = f", gRPC on {grpc[0]}" if grpc else ""
            lines = [f"Serving on {url}{also} (Ctrl-C stops)", f"  every address, with forms to try it: {url}/docs"]
            show_lines([*lines, *(f"  ask: POST {url}/v1/models/{name}/predict" for name in names)])

    with opened_project(as_of=as_of) as project:
        names = list(project.definitions.deployments)
        say_first(project)
        project.serve(host=host, port=port, ready=ready, workers=workers, grpc_port=grpc_port, grpc_ready=grpc.append)
