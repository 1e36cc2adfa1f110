"""Runs the service in this process until it is stopped."""

import ipaddress
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from peml.errors import ConfigError
from peml.serving.predictor import Predictor
from peml.serving.service.app import Service
from peml.serving.service.engine import Engine
from peml.serving.service.gate import AccessLog
from peml.serving.service.keys import Keys
from peml.serving.service.limits import Limits


def check_exposure(host: str, key_file: Path | None, *, insecure: bool) -> None:
    """Refuses to open a service without a key to other machines."""
    if key_file is not None or insecure or _is_loopback(host):
        return
    raise ConfigError(
        f"--host {host} opens the service to other machines, and there is no key",
        allowed="127.0.0.1, ::1 or localhost without a key",
        action="give --api-key-file FILE; or --insecure if something in front checks who calls",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address, not listening yet; an address that can't be had is refused."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, number)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigError(
            f"can't listen at {host}, port {port}: {error.strerror}",
            allowed="an address of this machine and a free port",
            action="choose another --port or --host; --port 0 takes a free one",
        ) from error
    return bound


def run_service(
    predictor: Predictor,
    at: socket.socket,
    *,
    name: str,
    limits: Limits,
    keys: Keys | None,
    announce: Callable[[str], None],
    made: Callable[[Predictor], Engine] = Engine,
) -> None:
    """Answers requests until SIGINT or SIGTERM; requests that have begun are answered.

    ``announce`` gets a line for people about the address, ``made`` makes the engine. See `Service`
    for the rest.
    """
    service = Service(made(predictor), name, limits, keys, AccessLog(sys.stdout))
    config = uvicorn.Config(
        service,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(limits.timeout)),
    )
    at.listen()  # from now on, who connects waits until the service has started
    host, port = at.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    count = len(predictor.tasks)
    announce(f"{name}: {count} task{'' if count == 1 else 's'} at http://{shown}:{port}")
    # uvicorn raises the signal again when it has stopped: a stop that was asked for is no error.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[at])
