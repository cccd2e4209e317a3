"""Small real servers on loopback, for what a product under test calls outside itself."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Respond = Callable[["Exchange"], None]


@dataclass
class Exchange:
    """One request that arrived, and ways to answer it."""

    handler: BaseHTTPRequestHandler
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.reply(json.dumps(value).encode(), status, content_type="application/json", **headers)

    def reply(
        self, body: bytes = b"", status: int = 200, content_type: str = "text/plain", **headers: str
    ) -> None:
        self.start(status, content_length=str(len(body)), content_type=content_type, **headers)
        if self.method != "HEAD":
            self.handler.wfile.write(body)

    def start(self, status: int = 200, **headers: str) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()

    def write(self, data: bytes) -> None:
        self.handler.wfile.write(data)
        self.handler.wfile.flush()

    def drop(self) -> None:
        """Cut the connection without an answer."""
        with contextlib.suppress(OSError):
            self.handler.connection.shutdown(socket.SHUT_RDWR)
        self.handler.close_connection = True


@dataclass
class HttpServer:
    """Answers by path; remembers all it was asked.  Unknown paths are 404."""

    host: str
    port: int
    routes: dict[str, Respond] = field(default_factory=dict)
    seen: list[Exchange] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}:{self.port}{path}"

    @property
    def allowed(self) -> str:
        """As an entry of an allow-list."""
        return f"{self.host}:{self.port}"

    def hold(self, exchange: Exchange) -> None:
        """Never answer."""
        self.stopping.wait(60)

    def on(self, path: str, respond: Respond) -> None:
        self.routes[path] = respond


@contextlib.contextmanager
def http_server(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[HttpServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            exchange = Exchange(self, self.command, self.path, headers, self.rfile.read(length))
            served.seen.append(exchange)
            respond = served.routes.get(self.path.split("?")[0])
            with contextlib.suppress(OSError):  # the client may leave; that is what is tested
                if respond:
                    respond(exchange)
                else:
                    exchange.reply(b"nothing here", 404)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that breaks off, or does not trust the certificate, is part of the test

    server = Server((host, 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    served = HttpServer(host, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stopping.set()
        server.shutdown()
        server.server_close()


@dataclass
class Canary:
    """A listener that nobody must ever reach."""

    port: int
    visitors: list[Any] = field(default_factory=list)


@contextlib.contextmanager
def canary() -> Iterator[Canary]:
    """Listens on every address of this machine, IPv4 and IPv6."""
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(
                socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
            )
        except (OSError, ValueError):
            listener = stack.enter_context(socket.create_server(("", 0)))
        bird = Canary(listener.getsockname()[1])

        def watch() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, address = listener.accept()
                    bird.visitors.append(address)
                    connection.close()

        threading.Thread(target=watch, daemon=True).start()
        yield bird
        # What was still on its way shows now: a visit of our own comes after it.
        with socket.create_connection(("127.0.0.1", bird.port), 5) as own:
            own.recv(1)
        del bird.visitors[-1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # else the port lives on in the waiting accept
