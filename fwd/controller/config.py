"""The configuration of `fwd controller`: where it listens, how hosts reach it, where its state and its store are."""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, model_validator

from fwd.controller import mend
from fwd.controller.etcd import EtcdStore
from fwd.controller.spawn import why_no_argv
from fwd.controller.store import SqliteStore, Store
from fwd.controller.webhook import SECRET_OCTETS_MIN, Receiver
from fwd.files import read_secret
from fwd.model.toml import parse_as, read_text
from fwd.model.words import DAY_S, ConfigError, FilePath, Seconds, Strict, is_address, is_host_name

CONFIG: Final = Path("/etc/fwd/controller.toml")
_PORT_MAX: Final = 65535
_SECRET_OCTETS_MAX: Final = 4096
_DATABASE: Final = "store.db"


def _endpoint(text: str) -> str:
    """An address and a port."""
    host, _, port = text.rpartition(":")
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
        is_endpoint = 0 < int(port) <= _PORT_MAX and (":" not in host or host.startswith("["))
    except ValueError:
        is_endpoint = False
    if not is_endpoint:
        raise ValueError('expected an address and a port, such as "192.0.2.1:8443" or "[::]:8443"')
    return text


def _url(text: str) -> str:
    """The URL of a server."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.path.rstrip("/") or parts.query or parts.fragment or parts.username:
        raise ValueError('expected a URL without a path, such as "https://controller.example:8443"')
    return text.rstrip("/")


def _server_name(text: str) -> str:
    """What may stand in the certificate."""
    if not (is_address(text) or is_host_name(text)):
        raise ValueError(f"{text!r}: expected a host name (of other letters its ASCII form, xn--…) or an IP address")
    return text


def _argv(parts: list[str]) -> list[str]:
    """A program and its arguments."""
    if why := why_no_argv(parts):
        raise ValueError(why)
    return parts


_Url = Annotated[str, AfterValidator(_url)]
_Argv = Annotated[list[str], Field(max_length=64), AfterValidator(_argv)]


class Controller(Strict):
    """What holds for the whole controller."""

    listen: Annotated[str, AfterValidator(_endpoint)] = Field(
        default="0.0.0.0:8443", description="address and port; [::]:8443 for IPv6 and IPv4"
    )
    url: _Url = Field(description="by which hosts and people reach it; its host stands in the certificate")
    names: list[Annotated[str, AfterValidator(_server_name)]] = Field(
        default=[], max_length=16, description="other host names and addresses of it"
    )
    state: FilePath = Field(default=Path("/var/lib/fwd/controller"), description="directory of its keys and its store")
    certificate_lifetime: Seconds = Field(
        default=30 * DAY_S, ge=10, le=365 * DAY_S, description="of hosts' certificates, which renew at half of it"
    )
    audit_log: FilePath | None = Field(default=None, description="a file of its own; by default fwd's log has it")
    restart_command: _Argv = Field(
        default=[], description="what restarts a host that is down, with {name}, {kind}, {vpc}, {inner}, {outer}"
    )
    restart_limit: int = Field(default=mend.LIMIT, ge=1, le=1000, description="restarts of a host in 10 minutes")
    restart_wait: Seconds = Field(
        default=int(mend.WAIT_S), ge=5, le=3600, description="within which a host that was restarted is back"
    )
    restart_timeout: Seconds = Field(default=60, ge=1, le=3600, description="after which the command is killed")
    upgrade_command: _Argv = Field(
        default=[], description="what upgrades a gateway's host and restarts fwd there, with the same words"
    )
    upgrade_timeout: Seconds = Field(
        default=600, ge=1, le=4 * 3600, description="of the command, and then for the gateway to be back"
    )

    @model_validator(mode="after")
    def _is_https(self) -> Controller:
        if not self.url.startswith("https:"):
            raise ValueError("url: https is needed")
        try:
            _server_name(urlsplit(self.url).hostname or "")
        except ValueError as error:
            raise ValueError(f"url: {error}") from None
        return self

    @property
    def server_names(self) -> list[str]:
        """What the certificate names, the URL's host first."""
        host = urlsplit(self.url).hostname or ""
        return [host, *(one for one in self.names if one != host)]


class StoreTable(Strict):
    """Where the fleet is kept: a file of SQLite, or etcd, with which several controllers take each other's place."""

    kind: Literal["sqlite", "etcd"] = "sqlite"
    path: FilePath | None = Field(default=None, description="sqlite: the file; by default in the state directory")
    endpoints: list[_Url] = Field(default=[], max_length=16, description="etcd: URLs of its members")
    prefix: str = Field(default="/fwd/", pattern=r"^/([a-z0-9-]+/)+$", description="etcd: of all keys of this fleet")
    ca: FilePath | None = Field(default=None, description="etcd: the CA of its certificates")
    certificate: FilePath | None = Field(default=None, description="etcd: the controller's own")
    key: FilePath | None = Field(default=None, description="etcd: the certificate's key")

    @model_validator(mode="after")
    def _goes_together(self) -> StoreTable:
        etcd = [self.endpoints, self.ca, self.certificate, self.key]
        if self.kind == "sqlite" and any(etcd):
            raise ValueError('endpoints, ca, certificate and key are for kind = "etcd"')
        if self.kind == "etcd" and not self.endpoints:
            raise ValueError("etcd needs endpoints")
        if self.kind == "etcd" and self.path is not None:
            raise ValueError('path is for kind = "sqlite"')
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


def _hook(text: str) -> str:
    """The URL of a webhook: in the clear to this host alone."""
    try:
        parts = urlsplit(text)
        is_url = bool(parts.hostname) and parts.port != 0 and text.isascii() and text.isprintable()
    except ValueError:
        is_url = False
    if not is_url or parts.username or parts.fragment or parts.scheme not in ("http", "https"):
        raise ValueError('expected a URL without a user, such as "https://hooks.example/fwd"')
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ValueError("https is needed, but for an address of this host: http://127.0.0.1, http://[::1]")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class WebhookTable(Strict):
    """Who is told of events."""

    url: Annotated[str, AfterValidator(_hook)] = Field(description="https, or http on this host's own addresses")
    secret_file: FilePath = Field(description="what both know, 16 octets or more; mode 0600")
    ca: FilePath | None = Field(default=None, description="the CA of its certificate; by default the system's")


class ControllerConfig(Strict):
    controller: Controller
    store: StoreTable = StoreTable()
    webhook: WebhookTable | None = None


_TABLES: Final[dict[str, type[BaseModel]]] = {
    "controller": Controller, "store": StoreTable, "webhook": WebhookTable,
}  # fmt: skip


def load(path: Path) -> ControllerConfig:
    """Read and check the file at `path`. Raises ConfigError, one line."""
    return parse_as(ControllerConfig, read_text(path), str(path), _TABLES)


def store_of(config: ControllerConfig) -> Store:
    """Open the store. Raises UserError."""
    table = config.store
    if table.kind == "sqlite":
        return SqliteStore(table.path or config.controller.state / _DATABASE)
    try:
        context = ssl.create_default_context(cafile=table.ca)
        if table.certificate is not None:
            context.load_cert_chain(table.certificate, table.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"store: its certificates cannot be used: {error.strerror or error}") from None
    return EtcdStore(table.endpoints, table.prefix, tls=context)


def receiver_of(config: ControllerConfig) -> Receiver | None:
    """Read what the webhook needs. Raises UserError."""
    table = config.webhook
    if table is None:
        return None
    secret = read_secret(table.secret_file, "webhook's secret", _SECRET_OCTETS_MAX).strip()
    if len(secret) < SECRET_OCTETS_MIN:
        raise ConfigError(f"{table.secret_file}: webhook's secret: {SECRET_OCTETS_MIN} octets are the least")
    try:
        context = ssl.create_default_context(cafile=table.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"webhook: {table.ca}: no CA's certificates: {error.strerror or error}") from None
    return Receiver(table.url, secret, context)
