"""Who may ask the web page for what, and how much of it; without a server."""

import asyncio
import contextlib
import json
import re

import pytest

pytest.importorskip("uvicorn", reason="requirements-web.txt is not there")
from fmaml_jax.web import guard
from fmaml_jax.web.guard import (
    JOIN,
    LARGEST_BODY,
    LARGEST_UPLOAD,
    LOGIN,
    MOST_WAITING_OF_PAGE,
    UPLOAD,
    Connection,
    Guard,
)
from fmaml_jax.web.session import Sessions

HERE = {"host": "localhost:7860"}


class Behind:
    """In place of the framework: what it was asked, and the bodies that it read."""

    def __init__(self, fails=None):
        self.bodies = []
        self.fails = fails

    async def __call__(self, scope, receive, send):
        content = b""
        while True:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(content)
        if self.fails:
            raise self.fails
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


class Page:
    """A guard, what is behind it, and its answers."""

    def __init__(self, host="127.0.0.1", password="", waiting=lambda number: 0, fails=None):
        self.behind = Behind(fails)
        self.sessions = Sessions()
        self.guard = Guard(self.behind, self.sessions, host, password, waiting, self.room)
        self.no_room = ""

    def room(self, address):
        return self.no_room

    def ask(self, path, method="GET", body=(b"",), query=b"", address="1.2.3.4", **headers):
        """The status, the text, and the headers of an answer; the body may come in parts."""
        return asyncio.run(self.asked(path, method, body, query, address, headers))

    async def asked(self, path, method, body, query, address, headers):
        parts = list(body)
        sent = []
        named = {name.replace("_", "-"): value for name, value in (HERE | headers).items()}
        scope = {
            **{"type": "http", "path": path, "method": method, "query_string": query},
            **{"client": (address, 1), "server": ("127.0.0.1", 7860)},
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }

        async def receive():
            if not parts:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message):
            sent.append(message)

        await self.guard(scope, receive, send)
        headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
        return sent[0]["status"], text, headers

    def join(self, number, inputs=(), **options):
        body = json.dumps({"session_hash": number, "data": list(inputs), "fn_index": 1})
        return self.ask(JOIN, "POST", [body.encode()], **options)


def test_what_the_page_needs_is_answered_and_nothing_else():
    page = Page()
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/app_id"):
        assert page.ask(path)[0] == 200
    for path in ("/docs", "/gradio_api/run/add", "/gradio_api/file=", LOGIN):
        assert page.ask(path)[0] in (404, 405)
    assert page.ask("/", "POST")[0] == page.ask(UPLOAD, "GET")[0] == 405
    assert page.ask("/config", "OPTIONS")[0] == 405
    policy = page.ask("/")[2]["content-security-policy"]
    assert policy.startswith("default-src 'self'")


@pytest.mark.parametrize(
    ("host", "asked", "status"),
    [
        ("127.0.0.1", "localhost:7860", 200),
        ("127.0.0.1", "127.0.0.1:9999", 200),  # as through a tunnel
        ("127.0.0.1", "[::1]", 200),
        ("127.0.0.1", "evil.example:7860", 421),
        ("127.0.0.1", "127.0.0.1.evil.example", 421),
        ("127.0.0.1", "", 421),
        ("127.0.0.1", "192.168.1.5:7860", 421),
        ("0.0.0.0", "192.168.1.5:7860", 200),
        ("0.0.0.0", "evil.example", 421),
        ("page.example", "PAGE.example", 200),
    ],
)
def test_only_names_of_this_server_are_served(host, asked, status):
    assert Page(host).ask("/config", host=asked)[0] == status


@pytest.mark.parametrize("path", [UPLOAD, JOIN, "/gradio_api/heartbeat/abcdefghij", "/config"])
def test_other_sites_may_ask_for_nothing(path):
    page = Page()
    method = "POST" if path in (UPLOAD, JOIN) else "GET"
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ):
        assert page.ask(path, method, **headers)[0] == 403
    assert not page.behind.bodies
    assert (
        page.ask("/config", origin="http://localhost:7860", sec_fetch_site="same-origin")[0] == 200
    )
    assert page.ask("/", sec_fetch_site="cross-site")[0] == 200  # a link to the page


def test_bodies_have_bounds_by_route():
    page = Page()
    page.sessions.begin("abcdefghij", "1.2.3.4")
    assert page.ask(JOIN, "POST", content_length=str(LARGEST_BODY + 1))[0] == 413
    assert page.ask(UPLOAD, "POST", content_length=str(LARGEST_UPLOAD + 1))[0] == 413
    assert page.ask("/config", content_length="-1")[0] == 413
    assert not page.behind.bodies
    parts = [bytes(64 << 10)] * 9  # without a word on how much it is
    assert page.ask(JOIN, "POST", parts)[0] == page.ask("/config", "GET", parts)[0] == 413
    assert page.ask(UPLOAD, "POST", parts)[0] == 200
    assert not [body for body in page.behind.bodies if len(body) < 9 * (64 << 10)]


def test_a_body_that_comes_too_slowly_is_given_up(monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    page = Page()

    async def slowly():
        receiving = guard._Body(lambda: asyncio.sleep(9))
        receiving.bound({"content-length": "9"}, 10)
        await receiving.receive()

    with pytest.raises(guard._RefusedError, match="too long") as refused:
        asyncio.run(slowly())
    assert refused.value.status == 408
    assert not page.behind.bodies


def test_actions_are_those_of_pages_that_are_known():
    page = Page()
    status, said, _ = page.join("abcdefghij")
    assert status == 410
    assert "was started anew: reload it" in json.loads(said)["detail"]
    assert page.ask("/gradio_api/heartbeat/abcdefghij", query=b"again")[0] == 410
    assert page.ask("/gradio_api/queue/data", query=b"session_hash=abcdefghij")[0] == 410
    assert page.ask("/gradio_api/heartbeat/abcdefghij")[0] == 200
    assert page.join("abcdefghij")[0] == 200
    assert page.join("abcdefghij", address="5.6.7.8")[0] == 410  # a number that somebody overheard
    assert page.ask("/gradio_api/heartbeat/abcdefghij", query=b"again")[0] == 200
    assert page.ask("/gradio_api/heartbeat/a")[0] == 400
    assert json.loads(page.behind.bodies[1])["session_hash"] == "abcdefghij"


def test_a_page_and_an_address_have_so_much_waiting(monkeypatch):
    waiting = {"aaaaaa": MOST_WAITING_OF_PAGE, "bbbbbb": 1}
    page = Page(waiting=lambda number: waiting.get(number, 0))
    for number in waiting:
        page.sessions.begin(number, "1.2.3.4")
    assert page.join("aaaaaa")[0] == 429
    assert page.join("bbbbbb")[0] == 200
    monkeypatch.setattr(guard, "MOST_WAITING", 5)
    assert page.join("bbbbbb")[0] == 429


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        *(b"", b"{}", b"[]", b"null", b"\xff", b'{"session_hash": 1, "data": []}'),
        b'{"session_hash": "abcdefghij", "data": {}}',
    ],
    ids=lambda body: body[:9],
)
def test_what_is_no_action_is_refused(body):
    page = Page()
    page.sessions.begin("abcdefghij", "1.2.3.4")
    assert page.ask(JOIN, "POST", [body])[0] == 400
    assert not page.behind.bodies


def test_requests_of_an_address_are_counted(monkeypatch):
    monkeypatch.setattr(guard, "MOST_IN_FLIGHT", 2)
    page = Page()

    async def many():
        waits = page.asked("/config", "GET", [], b"", "1.2.3.4", {})
        tasks = [asyncio.create_task(waits)]
        tasks.append(asyncio.create_task(page.asked("/config", "GET", [], b"", "1.2.3.4", {})))
        await asyncio.sleep(0)
        found = [
            (await page.asked("/config", "GET", [b""], b"", address, {}))[0]
            for address in ("1.2.3.4", "5.6.7.8")
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return found

    assert asyncio.run(many()) == [429, 200]
    assert page.ask("/config")[0] == 200


def test_an_upload_has_room_and_a_known_kind_of_address():
    page = Page()
    assert page.ask(UPLOAD, "POST", query=b"upload_id=abc")[0] == 200
    for query in (b"upload_id=" + b"a" * 999, b"upload_id=a&b", b"a"):
        assert page.ask(UPLOAD, "POST", query=query)[0] == 400
    page.no_room = "There is no room."
    status, said, _ = page.ask(UPLOAD, "POST")
    assert (status, json.loads(said)["detail"]) == (507, "There is no room.")


def test_the_log_has_no_names(capsys):
    page = Page(fails=ValueError("my diagnosis.wav\n\x1b[31m"))
    status, said, _ = page.ask("/config")
    assert status == 500
    logged = capsys.readouterr().err
    assert "diagnosis" not in logged + said
    assert re.fullmatch(r"ValueError in __call__:\d+ < .*\n", logged)


def test_a_password_lets_in():
    page = Page("0.0.0.0", "open sesame")
    for path in ("/config", "/assets/a.js", "/gradio_api/heartbeat/abcdefghij"):
        assert page.ask(path)[0] == 401
    assert page.ask(UPLOAD, "POST")[0] == page.ask(JOIN, "POST")[0] == 401
    status, form, _ = page.ask("/")
    assert status == 200
    assert "type=password" in form
    assert not page.behind.bodies
    assert page.ask(LOGIN, "POST", [b"token=open"])[0] == 403
    for query, body in ((b"", [b"token=open+sesame"]), (b"token=open%20sesame", [b""])):
        method, path = ("GET", "/") if query else ("POST", LOGIN)
        status, _, headers = page.ask(path, method, body, query)
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert "samesite=lax" in cookie.lower()
        assert "sesame" not in cookie
        shown = cookie.split(";")[0]
        assert page.ask("/config", cookie=f"a=b; {shown}")[0] == 200
        assert page.ask("/config", cookie=shown[:-1])[0] == 401
    for _ in range(20):
        status, _, _ = page.ask(LOGIN, "POST", [b"token=guess"])
    assert status == 429
    assert page.ask(LOGIN, "POST", [b"token=open+sesame"], address="5.6.7.8")[0] == 303


def test_connections_that_say_nothing_are_closed(monkeypatch):
    import uvicorn

    async def is_closed(reader):
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.wait_for(reader.read(), 10) == b""
        return True

    async def visit():
        config = uvicorn.Config(Page().guard, port=0, http=Connection, log_level="critical")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        opened = []

        async def connect():
            opened.append(await asyncio.open_connection("127.0.0.1", port))
            return opened[-1]

        monkeypatch.setattr(guard, "HEAD_SECONDS", 1000)
        monkeypatch.setattr(guard, "MOST_CONNECTIONS", 3)
        *_, (reader, writer), (one_too_many, _) = [await connect() for _ in range(4)]
        assert await is_closed(one_too_many)
        writer.write(b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")

        monkeypatch.setattr(guard, "HEAD_SECONDS", 0.2)
        monkeypatch.setattr(guard, "MOST_CONNECTIONS", 5)
        (silent, _), (half, writer) = [await connect() for _ in range(2)]
        writer.write(b"GET / HTTP/1.1\r\nHost: loc")
        assert await is_closed(silent)
        assert await is_closed(half)
        for _, writer in opened:
            writer.close()
        server.should_exit = True
        await serving

    asyncio.run(visit())
    assert not +Connection.open
