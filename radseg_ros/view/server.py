# SPDX-License-Identifier: Apache-2.0
"""The server of the page: viser's, which answers only its own page and gives only its own files."""

from __future__ import annotations

import contextlib
import http
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from ..datatypes import ConfigError

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_PORTS = 65535


@contextmanager
def serve(host: str, port: int) -> Iterator[tuple[Any, str]]:
    """A viser server, and the address of its page, for as long as the block runs.

    Args:
        port: the first one that is free from here on is taken.

    Raises:
        ConfigError: viser is not installed, or there is no such address.
    """
    try:
        import viser
    except ImportError as error:
        raise ConfigError(
            f"the page needs the Python package {error.name} (pip install 'radseg_ros[view]')"
        ) from error
    if not 0 < port <= MOST_PORTS:
        raise ConfigError(f"--port is in 1..{MOST_PORTS}, got {port}")
    _check_address(host)
    # it greets at length
    with guarded(lambda request: refusal(request, host)), contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host=host, port=port, verbose=False)
    _never_share(server)
    try:
        shown = "localhost" if host in ("0.0.0.0", "::") else host
        yield server, f"http://{f'[{shown}]' if ':' in shown else shown}:{server.get_port()}"
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            server.stop()


def _check_address(host: str) -> None:
    """Refuse what this machine does not have: viser would try every port of it."""
    import socket

    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError as error:
        raise ConfigError(f"--host {host} is no address of this machine") from error


def _never_share(server: Any) -> None:
    """Without the messages by which a page asks viser for a tunnel to the whole world."""
    from viser import _messages

    for message in (_messages.ShareUrlRequest, _messages.ShareUrlDisconnect):
        server._websock_server.unregister_handler(message)


@contextmanager
def guarded(refuse: Callable[[Any], str]) -> Iterator[None]:
    """Servers of `websockets` that are started in the block answer nothing that is refused.

    viser has no place where its requests can be looked at, so it is done one floor below.

    Args:
        refuse: says why a request is not answered; empty = it is.
    """
    from websockets.asyncio import server as websockets_server

    original = websockets_server.serve

    def serve_guarded(*args: Any, process_request: Any = None, **options: Any) -> Any:
        def process(connection: Any, request: Any) -> Any:
            if reason := refuse(request):
                logger.warning("a request was refused: %s", reason)
                return connection.respond(http.HTTPStatus.FORBIDDEN, f"{reason}\n")
            return process_request(connection, request) if process_request else None

        return original(*args, process_request=process, **options)

    websockets_server.serve = serve_guarded  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        websockets_server.serve = original  # type: ignore[misc]


def refusal(request: Any, host: str) -> str:
    """Why a request is not for this page, or leads out of it; empty = it is answered.

    Args:
        host: the address that is served.
    """
    path = unquote(request.path.partition("?")[0]).replace("\\", "/")
    if ".." in path.split("/") or "\0" in path:
        return "the path leads out of the page"
    asked, origin = (request.headers.get(name) for name in ("Host", "Origin"))
    try:
        name = urlsplit(f"//{asked or ''}").hostname or ""
        page = None if origin is None else urlsplit(origin).netloc
    except ValueError:  # half an IPv6 address, say
        return "the host that is asked for, or the page that asks, has no such name"
    if host in LOOPBACK and name not in LOOPBACK:
        return "another host is asked for"  # a foreign page whose name leads here
    if page not in (None, asked):
        return "a page from elsewhere asks"
    return ""
