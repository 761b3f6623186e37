"""A controller that is small and real: HTTPS with client certificates, a CA, tokens, signed documents; by files in a
directory, so that it may run in another process: `python servekit.py DIRECTORY ADDRESS PORT`.

    desired-HOST   the line that it is sent, as it is then      beat-HOST.json   its last heartbeat
    refuse         "STATUS detail": what every request gets     renewals         one line for each renewal
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fwd.controller import ca
from fwd.link.document import Document, sign

SECRET = "s" * 43
NAMES = ("127.0.0.1", "localhost")
Json = dict[str, Any]


class Site:
    """The controller's own things."""

    def __init__(self, directory: Path, *, lifetime_s: float = 30 * 86400.0, server_s: float = 86400.0) -> None:
        """Make them, or take those that are there."""
        self.directory = directory
        if not (directory / "ca.key").exists():
            made = ca.new_authority("controller", time.time())
            put(directory / "ca.pem", ca.pem(made.certificate))
            put(directory / "ca.key", made.key_pem())
            key = Ed25519PrivateKey.generate().private_bytes_raw()
            put(directory / "document.key", key)
            put(directory / "lifetime", str(lifetime_s).encode())
            self._certify(made, server_s)
        self.ca = ca.load_authority(self.read("ca.key"), self.read("ca.pem"))
        self.key = Ed25519PrivateKey.from_private_bytes(self.read("document.key"))
        self.lifetime_s = float(self.read("lifetime"))

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def _certify(self, made: ca.Authority, server_s: float) -> None:
        """The server's certificate, and the CA's behind it."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = ca.server_certificate(made, key.public_key(), NAMES, time.time(), server_s)
        put(self.directory / "server.pem", ca.pem(certificate) + ca.pem(made.certificate))
        put(self.directory / "server.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    @property
    def token(self) -> str:
        return f"fwd1.{SECRET}.{ca.pin(self.ca.certificate)}"

    @property
    def public_key(self) -> str:
        return base64.b64encode(self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    def certificates(self, name: str, link_csr: str, ike_csr: str, now: float) -> Json:
        """What a host is given for its requests."""
        identity = f"{name}.gateway.fwd"
        link = ca.link_certificate(self.ca, ca.key_in(link_csr), ("c1", "gateway", name), now, self.lifetime_s)
        ike = ca.ike_certificate(self.ca, ca.key_in(ike_csr), identity, now, self.lifetime_s)
        return {
            "cluster_id": "c1", "name": name, "kind": "gateway", "identity": identity,
            "link_certificate": ca.pem(link).decode(), "ike_certificate": ca.pem(ike).decode(),
            "ca_bundle": ca.pem(self.ca.certificate).decode(), "document_key": self.public_key,
        }  # fmt: skip

    def publish(
        self, content: Mapping[str, Any], order: tuple[int, int], host: str = "a1", removed: tuple[str, ...] = ()
    ) -> bytes:
        """Have hosts sent a document."""
        data = sign(Document("c1", *order, host, content, tuple((one, order[1]) for one in removed)), self.key)
        put(self.directory / f"desired-{host}", data)
        return data

    def beat(self, host: str = "a1") -> Json:
        """The last heartbeat of a host; empty: none yet."""
        with contextlib.suppress(OSError, ValueError):
            found: Json = json.loads(self.read(f"beat-{host}.json"))
            return found
        return {}


def put(path: Path, data: bytes) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.write_bytes(data)
    new.rename(path)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_refused():
            return
        site = self.server.site
        if self.path == "/v1/join":
            self._join(body)
        elif not self._names():
            self._say(401, {"detail": "no certificate"})
        elif self.path == "/v1/heartbeat":
            put(site.directory / f"beat-{self._names()}.json", json.dumps(body).encode())
            self._say(200, {"time": time.time(), "newest": [0, 0]})
        else:
            with (site.directory / "renewals").open("a") as file:
                file.write(f"{time.time()}\n")
            self._say(200, site.certificates(self._names(), body["link_csr"], body["ike_csr"], time.time()))

    def do_GET(self) -> None:
        """The stream: each document once, and an empty line now and then."""
        if self._is_refused():
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent, path = b"", self.server.site.directory / f"desired-{self._names()}"
        while not self.server.ending.is_set():
            line = path.read_bytes() if path.exists() else b""
            self._chunk(line if line != sent else b"\n")
            sent = line
            self.server.ending.wait(0.1)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _join(self, body: Json) -> None:
        if body["token"] != SECRET:
            self._say(401, {"detail": "this token is not known here"})
            return
        put(self.server.site.directory / "joined.json", json.dumps(body).encode())
        self._say(201, self.server.site.certificates(body["name"], body["link_csr"], body["ike_csr"], time.time()))

    def _names(self) -> str:
        """The name in the client's certificate; empty: it has shown none."""
        shown: Any = self.connection.getpeercert()
        return next((value for ((key, value),) in (shown or {}).get("subject", ()) if key == "commonName"), "")

    def _is_refused(self) -> bool:
        path = self.server.site.directory / "refuse"
        if not path.exists():
            return False
        status, _, detail = path.read_text().partition(" ")
        self._say(int(status), {"detail": detail})
        return True

    def _say(self, status: int, body: Json) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, site: Site, address: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((address, port), Handler)
        self.site = site
        self.ending = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(site.directory / "server.pem", site.directory / "server.key")
        context.load_verify_locations(site.directory / "ca.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        self._context = context

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, source = super().get_request()
        return self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), source

    def handle_error(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(site: Site, port: int = 0) -> Iterator[str]:
    """Serve in this process; the URL."""
    server = Server(site, port=port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    Server(Site(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])).serve_forever()
