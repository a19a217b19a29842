"""What stands in front of the framework: who may ask for what, how much of it, and for how long.

It knows requests and nothing of Gradio but its addresses. What passes is counted by the visitor's
address; what a page has given is the page's session (`session.py`).
"""

import asyncio
import contextlib
import hmac
import html
import ipaddress
import json
import re
import secrets
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar, NoReturn
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fmaml_jax.web.session import Session, Sessions

LARGEST_UPLOAD = 320 << 20
"""Bytes of a request with files; an hour of 16-bit mono has 318 million at 44.1 kHz."""
LARGEST_BODY = 256 << 10
"""Bytes of any other; the digests of a thousand clips have 70 thousand."""
HEAD_SECONDS, BODY_SECONDS, LEAST_RATE = 15.0, 30.0, 1000
"""Until a request's head is there; until its body is, and bytes a second from then on."""
MOST_CONNECTIONS, MOST_IN_FLIGHT, MOST_UPLOADS = 512, 256, 8
"""Of an address: connections, requests and uploads at a time."""
MOST_WAITING, MOST_WAITING_OF_PAGE = 32, 4
"""Of an address and of a page: actions that are not done, or whose answer was not fetched."""
MOST_GUESSES = 10
"""Wrong passwords from an address in a minute."""
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
"""What a page may load: its own server's, and what it made itself."""
SERVED = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/.*|/gradio_api/(upload|upload_progress"
    r"|startup-events|app_id|queue/join|queue/data|heartbeat/\w+|file=/.*)"
)
"""What the page asks for. Gradio has sixty more addresses: some fetch from elsewhere, some edit."""
API, LIVE = "/v1/", "/v1/live"
MOST_SOCKETS, MOST_SOCKETS_OF_ADDRESS = 16, 8
UPLOAD, JOIN, LOGIN = "/gradio_api/upload", "/gradio_api/queue/join", "/login"
_LISTENS, _LIVES = "/gradio_api/queue/data", "/gradio_api/heartbeat/"
_NUMBER = re.compile(r"\w{6,40}")  # of a page; Gradio's have ten letters or so
_RELOAD = "The server has forgotten this page, or was started anew: reload it."


class _RefusedError(Exception):
    """A status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class _WrongError(_RefusedError):
    """A secret that was given is another."""


class Guard:
    """Lets through to `app` what the page asks for, from those who may, within the bounds.

    Browsers are told to load nothing from elsewhere, and to say nowhere where they were.

    Args:
        app: the framework.
        sessions: of the pages.
        host: the address that is listened at.
        password: what lets in; "" for everyone.
        waiting: how many actions of pages, by their numbers, are not done or not fetched.
        room: refuses, by an address, an upload for which there is no room; a sentence, or "".
        api: answers below `API`, if anything does.
        api_token: what lets in there; "" for everyone.
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions,
        host: str,
        password: str,
        waiting: Callable[[str], int],
        room: Callable[[str], str],
        api: ASGIApp | None = None,
        api_token: str = "",
    ):
        self._app = app
        self._sessions = sessions
        self._password = password
        self._key = secrets.token_urlsafe(24)  # what a browser shows that was let in
        self._waiting = waiting
        self._room = room
        self._api = api
        self._api_token = api_token
        self._names = _names(host)
        self._sockets: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()
        self._guesses: Counter[str] = Counter()
        self._minute = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await self._connect(scope, receive, send)
        key = "error" if self._is_call(scope) else "detail"
        begun = False
        body = _Body(receive)

        async def answer(message: Message) -> None:
            nonlocal begun
            if body.refused:  # of which the framework would say that it failed
                return
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
                if body.is_owed():
                    headers["Connection"] = "close"  # the rest of it is of no use
            await send(message)

        address = (scope["client"] or ("",))[0]
        self._in_flight[address] += 1
        try:
            async with self._admitted(scope, body, address) as app:
                await app(scope, body.receive, answer)
        except _RefusedError as refused:
            body.refused = False
            if not begun:
                said = JSONResponse({key: str(refused)}, refused.status)
                await said(scope, receive, answer)
        except ClientDisconnect:  # an upload that broke off
            pass
        except Exception as error:
            log(error)
            if not begun:
                await JSONResponse({key: "Something is wrong."}, 500)(scope, receive, answer)
        finally:
            self._in_flight -= Counter({address: 1})

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a socket through, or says why not."""
        address = (scope["client"] or ("",))[0]
        try:
            if not (self._is_call(scope) and scope["path"] == LIVE):
                raise _RefusedError(404, "Not found.")
            self._require_caller(scope, address)
            if self._sockets[address] >= MOST_SOCKETS_OF_ADDRESS:
                raise _RefusedError(429, "Too many sockets of yours are open; close one.")
            if self._sockets.total() >= MOST_SOCKETS:
                raise _RefusedError(503, "Too many sockets are open; try again later.")
        except _RefusedError as refused:
            said = JSONResponse({"error": str(refused)}, refused.status)
            return await said(scope, receive, send)
        self._sockets[address] += 1
        try:
            assert self._api is not None
            await self._api(scope, receive, send)
        except Exception as error:
            log(error)
        finally:
            self._sockets -= Counter({address: 1})

    def _is_call(self, scope: Scope) -> bool:
        return self._api is not None and scope["path"].startswith(API)

    def _require_caller(self, scope: Scope, address: str) -> None:
        """Refuses those without the token; where there is none, what other sites ask for."""
        headers = Headers(scope=scope)
        if not self._api_token:
            return self._require_own_page(scope["path"], headers)
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given:
            raise _RefusedError(401, "Give the token: Authorization: Bearer TOKEN.")
        self._require_secret(given.strip(), self._api_token, address, "tokens")
        return None

    def _require_secret(self, given: str, secret: str, address: str, kind: str) -> None:
        """Refuses another than the secret, and of too many of these all for a while."""
        if time.monotonic() - self._minute > 60:
            self._guesses.clear()
            self._minute = time.monotonic()
        self._guesses[address] += 1
        if self._guesses[address] > MOST_GUESSES:
            raise _RefusedError(429, f"Too many wrong {kind}; wait a minute.")
        if not hmac.compare_digest(given.encode("latin-1"), secret.encode()):
            raise _WrongError(401, "This is not the token.")
        self._guesses[address] = 0

    @contextlib.asynccontextmanager
    async def _admitted(self, scope: Scope, body: "_Body", address: str) -> AsyncIterator[ASGIApp]:
        """Who answers a request.

        Raises:
            _RefusedError: nobody does.
        """
        path, headers = scope["path"], Headers(scope=scope)
        posts = path in (UPLOAD, JOIN, LOGIN)
        calls = self._is_call(scope)
        if not calls:
            self._require_own_page(path, headers)
        if self._in_flight[address] > MOST_IN_FLIGHT:
            raise _RefusedError(429, "Too many requests at once.")
        if calls:
            async with self._calling(scope, headers, body, address) as app:
                yield app
            return
        if not (SERVED.fullmatch(path) or (path == LOGIN and self._password)):
            raise _RefusedError(404, "Not found.")
        if scope["method"] not in (("POST",) if posts else ("GET", "HEAD")):
            raise _RefusedError(405, "Not allowed.")
        body.bound(headers, LARGEST_UPLOAD if path == UPLOAD else LARGEST_BODY)
        if self._password and (response := await self._let_in(scope, headers, body, address)):
            yield response
        elif path == UPLOAD:
            if not re.fullmatch(rb"(upload_id=\w{1,40})?", scope["query_string"]):
                raise _RefusedError(400, "No upload.")
            async with self._uploading(body, address, address):
                yield self._app
        elif path == JOIN:
            self._require_turn(await body.read(), address)
            yield self._app
        elif path == _LISTENS or path.startswith(_LIVES):
            with self._session(scope, address).connected(listening=path == _LISTENS):
                yield self._app
        else:
            yield self._app

    @contextlib.asynccontextmanager
    async def _calling(
        self, scope: Scope, headers: Headers, body: "_Body", address: str
    ) -> AsyncIterator[ASGIApp]:
        """Who answers a call, which without a body tells nothing of anyone."""
        assert self._api is not None
        if scope["method"] == "POST":
            self._require_caller(scope, address)
            body.bound(headers, LARGEST_UPLOAD)
            async with self._uploading(body, f"{address} calls", address):
                yield self._api
        else:
            if not self._api_token:
                self._require_own_page(scope["path"], headers)
            body.bound(headers, LARGEST_BODY)
            yield self._api

    @contextlib.asynccontextmanager
    async def _uploading(self, body: "_Body", kind: str, address: str) -> AsyncIterator[None]:
        """While one of so many uploads of a kind is taken.

        Raises:
            _RefusedError: there is no room for it.
        """
        if said := self._room(address):
            raise _RefusedError(507, said)
        while self._uploads[kind] >= MOST_UPLOADS:
            await asyncio.sleep(0.05)
        self._uploads[kind] += 1
        body.begun = time.monotonic()
        try:
            yield
        finally:
            self._uploads -= Counter({kind: 1})

    def _require_own_page(self, path: str, headers: Headers) -> None:
        """Refuses names that are not served here, and what pages of other sites ask for."""
        host = headers.get("host", "")
        if not self._names(host):
            raise _RefusedError(421, "This is not served under that name.")
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != host:
            raise _RefusedError(403, "Another site may not ask for this.")
        site = headers.get("sec-fetch-site", "none")
        if path != "/" and site not in ("same-origin", "none"):
            raise _RefusedError(403, "Another site may not ask for this.")

    def _require_turn(self, content: bytes, address: str) -> None:
        """Refuses an action of no page, or one more than a page and an address may have waiting."""
        try:
            asked = json.loads(content)
            number, inputs = asked["session_hash"], asked["data"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _RefusedError(400, "No action of the page.") from error
        if not isinstance(number, str) or not isinstance(inputs, list):
            raise _RefusedError(400, "No action of the page.")
        session = self._sessions.find(number)
        if session is None or session.address != address:
            raise _RefusedError(410, _RELOAD)
        if self._waiting(number) >= MOST_WAITING_OF_PAGE:
            raise _RefusedError(429, "This page has enough to do; wait until it is done.")
        own = self._sessions.of_address(address)
        if sum(map(self._waiting, own)) >= MOST_WAITING:
            raise _RefusedError(429, "Too many pages of yours are busy; wait until one is done.")

    def _session(self, scope: Scope, address: str) -> Session:
        """That of the page which a connection is of; a page's first heartbeat begins it."""
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        path = scope["path"]
        number = query.get("session_hash", [""])[0]
        if path.startswith(_LIVES):
            number = path.removeprefix(_LIVES)
        if not _NUMBER.fullmatch(number):
            raise _RefusedError(400, "No page.")
        session = self._sessions.find(number)
        if session is None and path.startswith(_LIVES) and "again" not in query:
            session = self._sessions.begin(number, address)
            if session is None:
                raise _RefusedError(503, "Too many pages are open; close one, or try again later.")
        if session is None or session.address != address:
            raise _RefusedError(410, _RELOAD)
        return session

    async def _let_in(
        self, scope: Scope, headers: Headers, body: "_Body", address: str
    ) -> Response | None:
        """Nothing where the browser has been let in; else the form that asks for the password."""
        name = f"fmaml_jax_{(scope['server'] or ('', 0))[1]}"
        if re.search(rf"(^|; ){name}={re.escape(self._key)}(;|$)", headers.get("cookie", "")):
            return None if scope["path"] != LOGIN else RedirectResponse("/", 303)
        query = scope["query_string"] if scope["path"] == "/" else b""
        if scope["path"] == LOGIN:
            query = await body.read()
        given = parse_qs(query.decode("latin-1")).get("token", [""])[0]
        if not given:
            if scope["path"] == "/":
                return _form("")
            raise _RefusedError(401, "Open the page and give the password.")
        try:
            self._require_secret(given, self._password, address, "passwords")
        except _WrongError:
            return _form("This is not the password.")
        response = RedirectResponse("/", 303)
        response.set_cookie(name, self._key, httponly=True, samesite="lax")
        return response


def _names(host: str) -> Callable[[str], bool]:
    """Which `Host` of a request is served where `host` is listened at.

    A name of another site may lead here too (DNS rebinding); an address is no name.
    """
    name = socket.gethostname()
    names = {host, "localhost", name, f"{name}.local", socket.getfqdn()}
    own = {known.lower() for known in names}

    def is_served(asked: str) -> bool:
        name = re.sub(r":\d*$", "", asked).lower()
        try:
            found = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in own
        return found.is_loopback or not is_loopback(host)

    return is_served


def is_loopback(host: str) -> bool:
    """Whether nobody else reaches what listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Body:
    """The body of a request, which may neither be longer than it is bound to nor come too slowly.

    It has been `refused` where it was, and `begun` to be read.
    """

    def __init__(self, receive: Receive):
        self._receive = receive
        self._most = self._size = 0
        self.begun = time.monotonic()
        self._complete = self._expected = False
        self._content: bytes | None = None
        self.refused = False

    def bound(self, headers: Headers, most: int) -> None:
        """Takes so many bytes at most; where more are announced, none."""
        self._most = most
        length = headers.get("content-length", "0")
        self._expected = length != "0" or "transfer-encoding" in headers
        if not length.isdigit() or int(length) > most:
            self._refuse(413, f"At most {most >> 10:,} kB are taken at once.")

    async def receive(self) -> Message:
        """As ASGI's `receive`."""
        if self._content is not None:
            content, self._content = self._content, None
            return {"type": "http.request", "body": content, "more_body": False}
        if self._complete:  # what comes now is that the visitor has gone
            return await self._receive()
        left = self.begun + BODY_SECONDS + self._size / LEAST_RATE - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            self._refuse(408, "It took too long.")
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body")
        if self._size > self._most:
            self._refuse(413, f"At most {self._most >> 10:,} kB are taken at once.")
        return message

    def is_owed(self) -> bool:
        """Whether some of it is still to come."""
        return self._expected and not self._complete

    async def read(self) -> bytes:
        """All of it, which can be received all the same."""
        content = b""
        while not self._complete:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            content += message.get("body", b"")
        self._content = content
        return content

    def _refuse(self, status: int, sentence: str) -> NoReturn:
        self.refused = True
        raise _RefusedError(status, sentence)


def _form(said: str) -> Response:
    return HTMLResponse(
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>fmaml_jax</title><style>body{font-family:system-ui;color-scheme:light dark;"
        "max-width:20em;margin:4em auto;padding:0 1em}</style>"
        f"<form method=post action={LOGIN}><p>{html.escape(said)}</p>"
        "<label>Password, or the token that the server printed<br>"
        "<input name=token type=password autofocus></label> <button>Open</button></form>",
        403 if said else 200,
    )


def log(error: BaseException) -> None:
    """Where something failed and of what kind it is, in a line: a message may hold names."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    print(f"{type(error).__name__} in {where}", file=sys.stderr)


class Connection(H11Protocol):
    """A connection; those that say nothing, and one address's beyond a number, are closed."""

    open: ClassVar[Counter[str]] = Counter()
    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Counts it."""
        super().connection_made(transport)
        self._address = (self.client or ("",))[0]
        Connection.open[self._address] += 1
        if Connection.open[self._address] > MOST_CONNECTIONS:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Passes it on, and waits for the rest of a request's head for so long."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it no longer."""
        super().connection_lost(exc)
        self.connection_ended()

    def connection_ended(self) -> None:
        """Counts it no longer, and waits for nothing."""
        Connection.open -= Counter({self._address: 1})
        if self._silence:
            self._silence.cancel()
            self._silence = None

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Counts it no longer: a socket is counted by the guard."""
        super().handle_websocket_upgrade(event)
        self.connection_ended()

    def _watch(self) -> None:
        in_head = self.conn.their_state.__name__ == "IDLE"
        if in_head and self._silence is None:
            self._silence = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        elif not in_head and self._silence:
            self._silence.cancel()
            self._silence = None
