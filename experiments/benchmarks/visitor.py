"""A visitor of the web page without a browser: what a page sends, and anything else over HTTP."""

import contextlib
import http.client
import json
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

BOUNDARY = "edge"
EMPTY_FILE = {"_type": "gradio.FileData"}


class Visitor:
    """A page: its number, its heartbeat, and what it asks for.

    Args:
        port: of the server, on the loopback address.
        alive: whether the page keeps its connection.
    """

    def __init__(self, port: int, alive: bool = True):
        self.port = port
        self.number = secrets.token_hex(6)
        self._heartbeats: list[tuple[http.client.HTTPConnection, http.client.HTTPResponse]] = []
        if alive:
            self.beat()

    def beat(self, again: bool = False) -> int:
        """Opens a connection that says that the page is open; the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        path = f"/gradio_api/heartbeat/{self.number}" + "?again" * again
        connection.request("GET", path)
        answer = connection.getresponse()
        self._heartbeats.append((connection, answer))
        return answer.status

    def drop(self) -> None:
        """Loses one connection."""
        connection, answer = self._heartbeats.pop()
        if connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        answer.close()
        connection.close()

    def close(self) -> None:
        """Closes the page."""
        while self._heartbeats:
            self.drop()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> tuple[int, bytes]:
        """One request: the status, and the answer.

        A body that the server does not read to its end is no error.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, headers or {})
            try:
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (ConnectionResetError, http.client.RemoteDisconnected):
                return 0, b""

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the page is told that it consists of."""
        return json.loads(self.ask("GET", "/config")[1])

    def upload(self, *files: tuple[str, bytes]) -> list[str]:
        """Uploads files of a name and a content; their paths on the server."""
        status, said = self.ask("POST", "/gradio_api/upload", *multipart(files))
        if status != 200:
            raise RuntimeError(f"{status}: {said[:200]!r}")
        return json.loads(said)

    def join(self, action: str, *inputs: Any) -> tuple[int, Any]:
        """Asks for an action, by the label or button that it belongs to: the status, and its id."""
        body = {"data": inputs, "fn_index": self._index(action), "session_hash": self.number}
        headers = {"Content-Type": "application/json"}
        status, said = self.ask("POST", "/gradio_api/queue/join", json.dumps(body), headers)
        return status, json.loads(said)

    def listen(self, seconds: float = 600) -> Iterator[dict[str, Any]]:
        """The messages of the page's actions until all of them are done."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.number}")
            with connection.getresponse() as answer:
                for line in answer:
                    if line.startswith(b"data:"):
                        message = json.loads(line[5:])
                        yield message
                        if message["msg"] == "close_stream":
                            return

    def do(self, action: str, *inputs: Any) -> dict[str, Any]:
        """Does an action and waits for it: its output, by Gradio."""
        status, said = self.join(action, *inputs)
        if status != 200:
            raise RuntimeError(f"{status}: {said}")
        done = [m for m in self.listen() if m["msg"] == "process_completed"]
        return done[-1]["output"] | {"success": done[-1]["success"]} if done else {"success": False}

    def add(self, label: str, *files: tuple[str, bytes], speaker: str = "") -> str:
        """Adds clips of a label; what the page says."""
        given = [as_file(path) for path in self.upload(*files)]
        return text(self.do("clips", label, "a new emotion", speaker, given))

    def enrol(self) -> str:
        """Enrols; what the page says."""
        return text(self.do("Enrol", ["neutral", "silence"], ""))

    def load(self, content: bytes) -> str:
        """Loads a model; what the page says."""
        return text(self.do("model", as_file(self.upload(("my.model", content))[0])))

    def give(self, name: str, content: bytes) -> dict[str, Any]:
        """Gives a recording, as the page does, and returns what it is called by."""
        file = as_file(self.upload((name, content))[0])
        self.do("recording", file)
        return file

    def recognise(self, file: dict[str, Any]) -> str:
        """Recognises a recording that was given; what the page says."""
        return text(self.do("Recognise", file, 0, ""))

    def _index(self, action: str) -> int:
        """The number of the event that a component of this name or label triggers."""
        config = self.config
        parts = {
            part["id"]: (part["props"].get("elem_id"), part["props"].get("value"), part["type"])
            for part in config["components"]
        }
        for dependency in config["dependencies"]:
            for target, _ in dependency["targets"]:
                elem, value, kind = parts.get(target, (None, None, None))
                if action == elem or (kind == "button" and action == value):
                    return dependency["id"]
        raise KeyError(action)


def multipart(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of an upload."""
    return form(*(("files", name, content) for name, content in files))


def form(*parts: Any) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a form; a part is a name and a text, or a file's name and bytes."""
    lines = []
    for name, *content in parts:
        kind = f'; filename="{content[0]}"' if len(content) == 2 else ""
        raw = content[-1] if isinstance(content[-1], bytes) else str(content[-1]).encode()
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{kind}\r\n\r\n'
        lines.append(head.encode() + raw + b"\r\n")
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()]), headers


def as_file(path: str) -> dict[str, Any]:
    """How the page names an uploaded file."""
    return {"path": path, "orig_name": Path(path).name, "meta": EMPTY_FILE}


def text(output: dict[str, Any]) -> str:
    """All that an answer says, as one text."""
    return json.dumps(output, ensure_ascii=False)


def together(actions: Sequence[Any]) -> list[Any]:
    """Calls functions at once; what each returns."""
    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(lambda action: action(), actions))


def timed(action: Any, *inputs: Any) -> tuple[float, Any]:
    """Seconds of a call, and what it returns."""
    begun = time.perf_counter()
    found = action(*inputs)
    return time.perf_counter() - begun, found
