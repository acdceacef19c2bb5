"""Who may ask: API keys, names in the Host header, and an id for every request."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from dataclasses import field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.files import read_text
from .errors import RequestError, openai_error, problem_of
from .events import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .errors import Problem

__all__ = ["LOOPBACK", "Guard", "Keys", "host_of", "read_keys"]

#: Names of this machine, for itself.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: RFC 9112, 3.2: a server must refuse any other. What a client folds into it is no part of it either.
_HOST = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
#: Headers of a request.
MOST_HEADERS = 256
#: Codes of errors after which a connection is not used again, as where its next request begins may be in doubt.
_CLOSING = ("invalid_http", "headers_too_large")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_KEY = re.compile(r"[\x21-\x7e]{8,512}")


class Keys:
    """API keys, of which a request needs one. Nothing of them is kept but their hashes."""

    def __init__(self, keys: Iterable[str]) -> None:
        """At least one."""
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._secret = secrets.token_bytes(32)

    def __contains__(self, key: str) -> bool:
        """Whether it is one of them; takes as long for one as for another."""
        given = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        return sum([hmac.compare_digest(given, each) for each in self._hashes]) > 0

    def salt(self, key: str) -> str:
        """What tells texts of one key from those of others, in this process; no key can be found by it."""
        return hmac.new(self._secret, key.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def read_keys(file: Path) -> Keys:
    """A key a line; empty lines and those that begin with # are none. Errors: `InputError`."""
    lines = [line.strip() for line in read_text(file, InputError).splitlines()]
    keys = [(i, line) for i, line in enumerate(lines, 1) if line and not line.startswith("#")]
    for i, key in keys:
        if not _KEY.fullmatch(key):
            msg = f"{file}: line {i} is no key; expected 8 to 512 ASCII characters without blanks"
            raise InputError(msg)
    if not keys:
        msg = f"{file}: has no key; expected one a line"
        raise InputError(msg)
    return Keys(key for _, key in keys)


def host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _name_in(origin: str) -> str:
    """The name in an Origin header; "" where there is none."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:  # as http://[
        return ""


@dataclass(frozen=True)
class Guard:
    """An ASGI application around another: it gives each request an id, and lets through what may pass.

    `hosts`: names that Host and Origin may have, against pages that let their own name point here; empty: any.
    `keys`: None: none is needed. `open_paths`: those that need none. `probes`: paths that answer by any name, as who
    watches the server asks an address. `errors`: how a path tells errors, if not as OpenAI's API. `max_headers`: bytes
    of a request's path and headers. `per_key`: texts of one key reuse nothing of another's.
    """

    app: ASGIApp
    hosts: tuple[str, ...] = ()
    keys: Keys | None = None
    open_paths: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    errors: Mapping[str, Callable[[Problem], Mapping[str, Any]]] = field(default_factory=dict)
    max_headers: int = 32 << 10
    per_key: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            self._check(scope, headers)
        except RequestError as e:
            await _refuse(e, with_id, self.errors.get(scope["path"], openai_error))
            return
        await self.app(scope, receive, with_id)

    def _check(self, scope: Scope, headers: Headers) -> None:
        _check_framing(scope, headers, self.max_headers)
        if self.hosts and scope["path"] not in self.probes:
            origin = headers.get("origin")
            names = [host_of(headers.get("host", ""))] + ([] if origin is None else [_name_in(origin)])
            if any(name not in self.hosts for name in names):
                msg = f"host: this server answers to {', '.join(self.hosts)} only; see --allowed-host"
                raise RequestError(msg, status=403, code="host_not_allowed")
        if self.keys is None or scope["path"] in self.open_paths:
            return
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        if given not in self.keys:
            msg = "a key is needed: send Authorization: Bearer KEY" if not given else "this key is not known here"
            raise RequestError(msg, status=401, code="invalid_api_key")
        if self.per_key:
            scope["state"]["salt"] = self.keys.salt(given)


def _check_framing(scope: Scope, headers: Headers, most: int) -> None:
    """Refuse what a proxy in front may have read otherwise (RFC 9112, 6.1). Errors: `RequestError`."""
    size = len(scope.get("raw_path", b"")) + len(scope["query_string"])
    if len(scope["headers"]) > MOST_HEADERS or size + sum(len(k) + len(v) + 4 for k, v in scope["headers"]) > most:
        msg = f"the path and headers have more than {most} bytes, or the request more than {MOST_HEADERS} headers"
        raise RequestError(msg, status=431, code="headers_too_large")
    chunked, version = "transfer-encoding" in headers, scope["http_version"]
    if version not in {"1.0", "1.1"}:
        msg = f"HTTP/{version}: this server speaks HTTP/1.1"
        raise RequestError(msg, code="invalid_http")
    if chunked and ("content-length" in headers or version == "1.0"):
        other = "content-length" if version == "1.1" else "HTTP/1.0"
        msg = f"transfer-encoding: it came with {other}, next to which it may mean two things; send one of them"
        raise RequestError(msg, param="transfer-encoding", code="invalid_http")
    if not _HOST.fullmatch(headers.get("host", "")):
        msg = "host: expected a name or address, and perhaps a port"
        raise RequestError(msg, param="host", code="invalid_http")


async def _refuse(error: RequestError, send: Send, tell: Callable[[Problem], Mapping[str, Any]]) -> None:
    problem = problem_of(error)
    data = to_json(tell(problem))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    headers += [(b"connection", b"close")] if problem.code in _CLOSING else []
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
