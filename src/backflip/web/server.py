"""Serving a run's page from this process: a port, a link to print, and uvicorn until told to stop."""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import h11
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from backflip.rundir import RunDir
from backflip.web.app import create_app
from backflip.web.security import HostRefused, Hosts, ServerError, protect

PAGE = "page"
"""Under which name a served page tells the run its address."""
FIRST_PORT = 8642
PORTS = 100
STOP_SECONDS = 0.2
"""How often to ask whether to stop."""
GRACE_SECONDS = 3
"""How long requests under way may take after that."""


class PortBusy(ServerError):
    """Another program has the port."""


class Guarded(H11Protocol):
    """What is no HTTP never reaches the app, so its refusal gets the headers of every response here."""

    def send_400_response(self, msg: str) -> None:
        """Refuse, and hang up."""
        headers = MutableHeaders({"content-type": "text/plain; charset=utf-8", "connection": "close"})
        protect(headers)
        refusal = h11.Response(status_code=400, headers=headers.raw, reason=b"Bad Request")
        for event in (refusal, h11.Data(data=f"{msg}\n".encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def bind(host: str = "127.0.0.1", port: int | None = None, allow_remote: bool = False) -> socket.socket:
    """A listening socket; with no port (or 0) the first free one from 8642 on.

    Args:
        allow_remote: other machines may connect. Without it only this machine can.

    Raises:
        PortBusy: the chosen port is taken or not ours to take.
        HostRefused: the host is not an address of this machine, or others could reach it and that was not allowed.
    """
    family, address = _resolve(host)
    if not allow_remote and not ipaddress.ip_address(address).is_loopback:
        raise HostRefused(
            f"{host} can be reached from other machines, and whoever has the link can answer. If that is wanted, say "
            f"--allow-remote; safer from elsewhere is: ssh -L {port or FIRST_PORT}:127.0.0.1:{port or FIRST_PORT} "
            "this-machine, and the page stays on 127.0.0.1"
        )
    if port:
        return _listen(family, address, port)
    for free in range(FIRST_PORT, FIRST_PORT + PORTS):
        with contextlib.suppress(PortBusy):
            return _listen(family, address, free)
    raise PortBusy(
        f"the ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} of {host} are all taken; choose another: --port"
    )


def link(listening: socket.socket, token: str, path: str = "/") -> str:
    """The address that opens the page, to print; whoever has it can answer."""
    return f"{home(listening)}{path}?token={token}"


def home(listening: socket.socket) -> str:
    """The page's address, without a path: http://127.0.0.1:8642."""
    address, port = listening.getsockname()[:2]
    if ipaddress.ip_address(address).is_unspecified:
        address = socket.gethostname()
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def serve(
    run_path: Path,
    listening: socket.socket,
    token: str,
    stop_event: Callable[[], bool] | None = None,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serve a run's page until `stop_event()` is true or the process is told to end (Ctrl-C, SIGTERM).

    Args:
        allowed_hosts: names of a proxy in front of it, under which visitors call it.

    Raises:
        RunError: the run directory cannot be used.
        HostRefused: such a name cannot be one.
    """
    hosts = Hosts.bound_to(listening.getsockname()[0], allowed_hosts)
    run = RunDir.open(run_path)
    app = create_app(run, token, hosts=hosts)
    run.tell(PAGE, address=home(listening))
    try:
        serve_app(app, listening, stop_event, bool(allowed_hosts))
    finally:
        app.state.context.store.close()


def serve_app(
    app: ASGIApp, listening: socket.socket, stop_event: Callable[[], bool] | None = None, proxied: bool = False
) -> None:
    """Serve an app until `stop_event()` is true or the process is told to end; the socket is closed then.

    Args:
        proxied: believe what a proxy in front says of visitors.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=Guarded,
            access_log=False,  # addresses may hold the token
            log_config=None,
            lifespan="off",
            server_header=False,
            proxy_headers=proxied,  # without a proxy, anybody could say they come from anywhere
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_until_stopped(server, listening, stop_event))
    finally:
        listening.close()


async def _until_stopped(
    server: uvicorn.Server, listening: socket.socket, stop_event: Callable[[], bool] | None
) -> None:
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not serving.done():
        await asyncio.wait([serving], timeout=STOP_SECONDS)
        if stop_event is not None and stop_event():
            server.should_exit = True
    await serving


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise HostRefused(f"{host!r} is not an address of this machine ({error}); use 127.0.0.1") from error
    return family, str(address[0])


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # Without its protocol named, asyncio leaves TCP's waiting for more to send on: 40 ms an answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere this would let two programs share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        raise _refused(error, address, port) from error
    return listening


def _refused(error: OSError | OverflowError, address: str, port: int) -> ServerError:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return PortBusy(
            f"port {port} of {address} is taken, perhaps by the page of another run; stop that one, choose another "
            "--port, or leave --port out for the first that is free"
        )
    if code == errno.EADDRNOTAVAIL:
        return HostRefused(f"{address} is not an address of this machine; use 127.0.0.1")
    return PortBusy(f"port {port} of {address} cannot be used ({error}); choose another --port, above 1023")
