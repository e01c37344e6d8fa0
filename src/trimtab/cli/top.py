"""The command `top`, which shows a running service as it changes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from trimtab.cli.exits import printable
from trimtab.cli.options import command, manner, names, project_config
from trimtab.cli.output import show_json, show_lines
from trimtab.core.errors import Misuse, Unavailable
from trimtab.serving.observe.scrape import read_scrape

if TYPE_CHECKING:
    from pathlib import Path
    from ssl import SSLContext

    from trimtab.core.config import Config
    from trimtab.serving.observe.scrape import Scrape

_TIMEOUT_S = 5.0


@command("top")
@click.option("--url", help="The address of the service (default: where this project is served).")
@click.option("--key", help="An API key with the role read, if one is needed; - reads it from standard input.")
@click.option("--cafile", metavar="FILE", help="A PEM file with the certificates to trust, for HTTPS.")
@click.option("--model", metavar="NAME", shell_complete=names("model"), help="Show the predictions of this model only.")
@click.option("--every", type=click.FloatRange(0.2, 3_600), default=1.0, show_default=True, help="Period in seconds.")
@click.option("--once", is_flag=True, help="Print one view, with rates over one period, and end.")
def top(url: str | None, key: str | None, cafile: str | None, model: str | None, every: float, once: bool) -> None:
    """Watch a running service: rates, latencies, versions, failures.

    Ctrl-C ends it. Without a terminal, the views are printed one after the other.

    \b
    Example:
      trimtab service top --once
      trimtab service top --key - < key.txt     # as an argument, a key would be visible in lists of processes
    """
    look = _looking(url, sys.stdin.readline().strip() if key == "-" else key, cafile)
    first = look()
    try:
        time.sleep(every)
        if once:
            _show(first, look(), model, show_lines)
        else:
            _watch(look, first, every, model)
    except KeyboardInterrupt:
        return


def _watch(look: Callable[[], tuple[str, Scrape]], before: tuple[str, Scrape], every: float, model: str | None) -> None:
    with _screen() as show:
        while True:
            try:
                now = look()
            except (Unavailable, Misuse) as error:  # the service may come back, or its certificate may be renewed
                show_lines([str(error)], err=True) if manner().json else show([str(error)])
            else:
                _show(before, now, model, show)
                before = now
            time.sleep(every)


@contextmanager
def _screen() -> Iterator[Callable[[list[str]], object]]:
    """Yield a function that shows lines: in the same place on a terminal, otherwise one below the other."""
    if not sys.stdout.isatty() or manner().json:
        yield show_lines
        return
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        yield lambda lines: live.update(Text("\n".join(map(printable, lines)), no_wrap=True), refresh=True)


def _show(
    before: tuple[str, Scrape], now: tuple[str, Scrape], model: str | None, show: Callable[[list[str]], object]
) -> None:
    from trimtab.serving.workers.overview import overview

    found = overview(before[1], now[1], now[0], model)
    if manner().json:
        show_json(found)
    else:
        show(found.lines())


def _looking(url: str | None, key: str | None, cafile: str | None) -> Callable[[], tuple[str, Scrape]]:
    """Return a function that reads the metrics of the service, and returns them with its URL."""
    config = None if url is not None else project_config()
    given = f"http://{url}" if url is not None and "//" not in url else url

    def look() -> tuple[str, Scrape]:
        where = (given or _address(config)).rstrip("/")
        # read the certificate each time: it may have been renewed
        return where, _scrape(where, key, _context(config, cafile))

    return look


def _address(config: Config | None) -> str:
    """Return the URL of the running service. If none is running, return the URL from the settings."""
    from trimtab.serving.workers.states import FOLDER, read_state

    assert config is not None  # without --url, there is a project
    state = read_state(config.state_folder / FOLDER)
    if state is not None:
        return state.url
    scheme = "http" if config.serve.tls_cert is None else "https"
    return f"{scheme}://{config.serve.host}:{config.serve.port}"


def _context(config: Config | None, cafile: str | None) -> SSLContext | None:
    """Return a TLS context that trusts `cafile`, or else the project's certificate (then for any host name).

    None: there is neither.

    Raises:
        Misuse: The file cannot be read, or it contains no certificate.
    """
    import ssl

    served = None if config is None or config.serve.tls_cert is None else config.folder / config.serve.tls_cert
    if cafile is None and served is None:
        return None
    try:
        if served is None or cafile is not None:
            context = ssl.create_default_context(cafile=cafile)
        else:
            context = ssl.create_default_context(cadata=_first(served))
            context.check_hostname = False
    except (OSError, ValueError) as error:
        named = f"serve.tls_cert {served}" if cafile is None else f"--cafile {cafile}"
        raise Misuse(f"{named}: {error}. Give a PEM file with a certificate.") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the chain may lack the root certificate
    return context


def _first(file: Path) -> str:
    """Return the first certificate in a file: the service's own.

    The others belong to its issuers. Trusting them would mean trusting every certificate of these issuers.
    """
    text = file.read_bytes().decode("latin-1")
    found = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
    if found is None:
        raise ValueError("it contains no certificate")
    return found[0]


def _scrape(url: str, key: str | None, context: SSLContext | None) -> Scrape:
    import ssl
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    no_proxy = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=context))
    try:
        place = urlsplit(url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise ValueError("not the address of a service")
        request = urllib.request.Request(f"{url}/metrics", headers=headers)
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            text = response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                needed = "a key with the role read is needed: --key KEY (trimtab keys add NAME --role read)"
                raise Misuse(f"{url}: {needed}.") from error
            raise Unavailable(f"{url}/metrics: the answer was {error.code}. Is it a service of trimtab?") from error
    except ValueError as error:
        raise Misuse(f"--url {url}: {error}. Give an address such as http://127.0.0.1:8117.") from error
    except (OSError, HTTPException) as error:
        why = getattr(error, "reason", None) or error
        if isinstance(why, ssl.SSLCertVerificationError):
            trust = "Give the certificate to trust (--cafile FILE), and a host name that is in it"
            raise Unavailable(f"{url}: its certificate is not trusted ({why.verify_message}). {trust}.") from error
        raise Unavailable(
            f"{url}: no service answers there ({why}). Start one: trimtab serve; or give its address: --url."
        ) from error
    if not text:
        raise Unavailable(f"{url}/metrics: the answer was empty. Is it a service of trimtab?")
    return read_scrape(text, time.time())
