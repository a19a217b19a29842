"""What one visitor of the web page can do to it: memory and disk of the server, attack by attack.

`python -m experiments.benchmarks.attack --checkpoint=descriptors` starts the server itself, with
its HTTP interface, runs every attack with nothing but what a visitor can send, and prints for each
what the server said, how far its memory rose above that of the idle server at most, what stayed
when the attack was over, and the disk. At the end all pages are closed, and after `--wait` seconds
the same is printed of what remains. Before that, `--visitors` enrol and recognise at once, beside
one alone, and again for `--minutes`.

Clips are synthetic speech; nothing is random.
"""

import base64
import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from absl import flags

from experiments.benchmarks.visitor import Visitor, as_file, form, multipart, timed, together
from fmaml_jax.common import archive, console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import text_table
from fmaml_jax.synthesis.speech import emofilm_clips, render

BOUND, REMAINING = 1000, 100
"""Megabytes above the idle server: at most during a request, and when all pages are closed."""
RATE = 16_000
TOKEN = "correct-horse"
"""What lets in to the HTTP interface."""
LET_IN = {"Authorization": f"Bearer {TOKEN}"}


class Server(NamedTuple):
    """A server that runs: its process, port and temporary folder."""

    process: subprocess.Popen
    port: int
    folder: Path

    def memory(self) -> tuple[float, float]:
        """Megabytes resident now, and at most since the last call."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        now, most = (int(values[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def disk(self) -> tuple[float, int]:
        """Megabytes and number of files in the folder of uploads."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files) / (1 << 20), len(files)

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        cells = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")


def start(checkpoint: str, encoder: str, folder: Path) -> Server:
    """Starts the server, which has its temporary files in the folder, and waits for its answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as own:
        Path(own, "token.txt").write_text(TOKEN)
        arguments = [f"--checkpoint={checkpoint}", f"--port={port}", "--api"]
        arguments += [
            f"--api_token_file={own}/token.txt",
            *[f"--encoder={encoder}"] * bool(encoder),
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "fmaml_jax.serve", *arguments],
            env={**os.environ, "TMPDIR": str(folder)},
        )
        return _answering(Server(process, port, folder))


def _answering(server: Server) -> Server:
    while server.process.poll() is None:
        try:
            if Visitor(server.port, alive=False).ask("GET", "/config")[0] == 200:
                return server
        except OSError:
            time.sleep(0.1)
    raise UserError("the server ended before it answered; start it alone, to see why")


# ---- what is sent


def speech(clips: int) -> list[tuple[str, np.ndarray]]:
    """Labels and samples of synthetic clips, of all emotions in turn."""
    planned = emofilm_clips(["en"], 8)
    found = []
    for clip in planned[:: max(1, len(planned) // clips)][:clips]:
        samples, rate = render(clip, seed=0)
        length = round(len(samples) * RATE / rate)
        places = np.linspace(0, len(samples) - 1, length)
        found.append((clip.label, np.interp(places, np.arange(len(samples)), samples)))
    return found


def wav(samples: np.ndarray) -> bytes:
    """The samples as a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, "PCM_16", format="WAV")
    return file.getvalue()


def own_clip(number: int, base: np.ndarray) -> tuple[str, bytes]:
    """A clip that is like no other."""
    return f"{number}.wav", wav(base * (0.5 + number / 2000))


def overlapping(entries: int) -> bytes:
    """An archive whose many entries are the same ten megabytes."""
    file = io.BytesIO()
    np.savez(file, a=np.zeros(10 << 17))
    raw = file.getvalue()
    begin = raw.index(b"PK\1\2")
    entry = raw[begin : raw.index(b"PK\5\6")]
    listed = entry * entries
    count = struct.pack("<HH", entries, entries)
    end = b"PK\5\6" + bytes(4) + count + struct.pack("<IIH", len(listed), begin, 0)
    return raw[:begin] + listed + end


def with_entries(model: bytes, **entries: Any) -> bytes:
    """A model with other entries, and the hash that belongs to them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "my.model")
        path.write_bytes(model)
        arrays, _ = archive.read(path, "")
        changed = json.loads(str(arrays["model"])) | entries
        archive.write(path, {**arrays, "model": np.asarray(json.dumps(changed))})
        return path.read_bytes()


def stream(
    port: int, path: str, head: bytes, size: int, headers: dict[str, str], fill: bytes = b"\0"
) -> str:
    """Sends a body, so many bytes of one kind behind its head, as far as the server takes it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("POST", path)
    for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    block, sent = fill * (1 << 20), 0
    try:
        for part in [head, *[block] * (size >> 20)]:
            connection.send(b"%x\r\n%b\r\n" % (len(part), part))
            sent += len(part)
        connection.send(b"0\r\n\r\n")
    except OSError:
        pass
    try:
        answer = connection.getresponse()
        return f"{answer.status} after {sent >> 20} MB"
    except OSError:
        return f"closed after {sent >> 20} MB"
    finally:
        connection.close()


# ---- the attacks


class Attack(NamedTuple):
    """What is sent, and what does it; it returns what the server said."""

    name: str
    run: Callable[[Server], str]


def shorten(said: Any) -> str:
    """What fits into a cell."""
    plain = str(said)
    if "status" in plain and "note" in plain:
        plain = plain.split('status\\">', 1)[-1].split("</div>", 1)[0]
    return plain[:70]


def attacks(clips: list[tuple[str, np.ndarray]]) -> Iterator[Attack]:
    """All of them."""
    sound = clips[0][1]
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    field = b'--edge\r\nContent-Disposition: form-data; name="files"\r\n\r\n'
    file = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'

    def labels(server: Server, number: int) -> str:
        visitor = Visitor(server.port)
        for label in range(number):
            pair = [own_clip(2 * label + part, sound) for part in (0, 1)]
            visitor.add(f"label {label}", *pair)
        seconds, said = timed(visitor.enrol)
        visitor.close()
        return f"{seconds:.1f} s: {shorten(said)}"

    def load(content: bytes) -> Callable[[Server], str]:
        def run(server: Server) -> str:
            visitor = Visitor(server.port)
            seconds, said = timed(visitor.load, content)
            visitor.close()
            return f"{seconds:.1f} s: {shorten(said)}"

        return run

    def add(label: str, content: bytes) -> Callable[[Server], str]:
        def run(server: Server) -> str:
            visitor = Visitor(server.port)
            seconds, said = timed(visitor.add, label, ("a.wav", content))
            visitor.close()
            return f"{seconds:.1f} s: {shorten(said)}"

        return run

    def enrolled(server: Server) -> Visitor:
        visitor = Visitor(server.port)
        for label, samples in clips[:8]:
            visitor.add(label, ("a.wav", wav(samples)))
        visitor.enrol()
        return visitor

    def unfetched(server: Server) -> str:
        visitor = enrolled(server)
        answers = [visitor.join("Enrol", ["neutral", "silence"], "")[0] for _ in range(30)]
        time.sleep(8)
        visitor.close()
        return f"{answers.count(200)} taken, {answers.count(429)} refused"

    def files(server: Server) -> str:
        each = (300 << 20) - 1000
        return stream(server.port, "/gradio_api/upload", file, 5 * each, kind)

    def hours(server: Server) -> str:
        hour = wav(np.resize(np.concatenate([own for _, own in clips]), 3600 * RATE))
        busy = [enrolled(server) for _ in range(4)]
        given = [visitor.give("hour.wav", hour) for visitor in busy]
        fifth = enrolled(server)
        clip = fifth.give("a.wav", wav(sound))
        listening = []
        for visitor, recording in zip(busy, given, strict=True):
            visitor.join("Recognise", recording, 0, "")
            listening.append(visitor.listen())
            next(listening[-1])
        seconds = [timed(fifth.recognise, clip)[0] for _ in range(3)]
        for visitor, listens in zip(busy, listening, strict=True):
            listens.close()
            visitor.close()
        time.sleep(10)
        used = [server.cpu()]
        time.sleep(3)
        used.append(server.cpu())
        fifth.close()
        return (
            f"a clip beside them takes {max(seconds):.1f} s; "
            f"{used[1] - used[0]:.1f} s of CPU in 3 s, 10 s after they are closed"
        )

    def pages(server: Server) -> str:
        opened = []
        for _ in range(100):
            visitor = Visitor(server.port, alive=False)
            opened.append((visitor.beat(), visitor))
        for _, visitor in opened:
            visitor.close()
        statuses = [status for status, _ in opened]
        return f"{statuses.count(200)} taken, {statuses.count(503)} refused"

    def slow(server: Server) -> str:
        sockets = []
        for _ in range(200):
            sockets.append(socket.create_connection(("127.0.0.1", server.port)))
            sockets[-1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        seconds, _ = timed(Visitor(server.port, alive=False).ask, "GET", "/config")
        sockets[0].settimeout(60)
        closed, _ = timed(sockets[0].recv, 1)
        for connection in sockets:
            connection.close()
        return f"others are answered in {seconds:.2f} s; closed after {closed:.0f} s"

    def strangers(server: Server) -> str:
        visitor = Visitor(server.port, alive=False)
        asked = [
            visitor.ask("GET", "/", headers={"Host": "evil.example"}),
            visitor.ask("POST", "/gradio_api/upload", *_from_elsewhere()),
            visitor.ask("GET", "/config", headers={"Sec-Fetch-Site": "cross-site"}),
        ]
        return " ".join(str(status) for status, _ in asked)

    def garbage(server: Server) -> str:
        visitor = Visitor(server.port)
        deep = b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        kinds = {"Content-Type": "application/json"}
        asked = [
            visitor.ask("POST", "/gradio_api/queue/join", deep, kinds)[0],
            visitor.ask("GET", "/gradio_api/queue/data?session_hash=nobody", None)[0],
            visitor.ask("GET", "/" + "a" * (1 << 20), None)[0],
        ]
        visitor.close()
        return " ".join(map(str, asked))

    def forged(server: Server) -> str:
        visitor = Visitor(server.port)
        said = visitor.do("Recognise", as_file("/etc/passwd"), 0, "")
        visitor.close()
        return f"success: {said['success']}"

    yield Attack("a field of 1 GB", lambda s: stream(s.port, *_upload(field), 1 << 30, kind))
    yield Attack("a file of 1 GB", lambda s: stream(s.port, *_upload(file), 1 << 30, kind))
    yield Attack("five files of 300 MB in one request", files)
    yield Attack(
        "a queue request of 300 MB",
        lambda s: stream(s.port, "/gradio_api/queue/join", b"{", 300 << 20, {}),
    )
    yield Attack("a model of 200 overlapping entries", load(overlapping(200)))
    yield Attack("a clip of 1,024 channels", add("joy", _wide(sound)))
    yield Attack("a label of 100 kB", add("x" * 100_000, wav(sound)))
    yield Attack("a label of 1 MB", lambda s: _label(s, sound))
    yield Attack("98 labels", lambda s: labels(s, 98))
    yield Attack("110 labels", lambda s: labels(s, 110))
    yield Attack("a table of 300 x 300", lambda s: _table(s, enrolled(s)))
    yield Attack("30 enrolments that nobody fetches", unfetched)
    yield Attack("four hours of recordings", hours)
    yield Attack("100 pages", pages)
    yield Attack("200 slow connections", slow)
    yield Attack("another name, origin, site", strangers)
    yield Attack("garbage", garbage)
    yield Attack("a forged path", forged)
    yield Attack("a zip bomb", load(_bomb()))


def _upload(head: bytes) -> tuple[str, bytes]:
    return "/gradio_api/upload", head


def _label(server: Server, sound: np.ndarray) -> str:
    visitor = Visitor(server.port)
    path = visitor.upload(("a.wav", wav(sound)))[0]
    status, said = visitor.join("clips", "x" * (1 << 20), "a new emotion", "", [as_file(path)])
    visitor.close()
    return f"{status}: {shorten(said)}"


def _table(server: Server, visitor: Visitor) -> str:
    seconds, said = timed(visitor.load, _with_table(_model_of(visitor.enrol())))
    visitor.close()
    return f"{seconds:.1f} s: {shorten(said)}"


def _with_table(model: bytes) -> bytes:
    confusion = np.ones((300, 300), int).tolist()
    estimate = {"left_out": "clip", "interval": [0.1, 0.9], "confusion": confusion}
    return with_entries(model, estimate=estimate)


def _model_of(said: str) -> bytes:
    encoded = said.split('download=\\"my.model\\" href=\\"data:application/octet-stream;base64,', 1)
    return base64.b64decode(encoded[1].split('\\"', 1)[0])


def _bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("mean.npy", bytes(1 << 28))
    return file.getvalue()


def _from_elsewhere() -> tuple[bytes, dict[str, str]]:
    body, headers = multipart([("a.wav", b"")])
    return body, {**headers, "Origin": "http://evil.example"}


# ---- the attacks on the HTTP interface


def calls(clips: list[tuple[str, np.ndarray]]) -> Iterator[Attack]:
    """All of them; the last one has the address wait for a minute."""
    sound = wav(clips[0][1])
    kind = LET_IN | form()[1]
    part = b"--edge\r\nContent-Disposition: form-data; name="

    def send(path: str, head: bytes, size: int, **options: Any) -> Callable[[Server], str]:
        return lambda server: stream(server.port, path, head, size << 20, kind, **options)

    def call(path: str, *parts: Any) -> Callable[[Server], str]:
        def run(server: Server) -> str:
            seconds, (status, said) = timed(_call, server, path, *parts)
            said = said if status != 200 else f"{len(said):,} bytes"
            return f"{seconds:.1f} s: {status} {shorten(said)}"

        return run

    def describe(model: bytes) -> Callable[[Server], str]:
        return call("/v1/describe", ("model", "my.model", model))

    def enrolment(labels: int) -> list[Any]:
        numbers = range(2 * labels)
        files = [("files", *own_clip(number, clips[0][1])) for number in numbers]
        return files + [("labels", f"label {number // 2}") for number in numbers]

    def table(server: Server) -> str:
        given = [("files", "a.wav", wav(samples)) for _, samples in clips]
        _, model = _call(server, "/v1/enrol", *given, *(("labels", name) for name, _ in clips))
        return describe(_with_table(model))(server)

    def endless(server: Server) -> str:
        with socket.create_connection(("127.0.0.1", server.port), 120) as caller:
            lines = [*({**kind, "Host": "localhost", "Transfer-Encoding": "chunked"}).items()]
            head = "".join(f"{name}: {value}\r\n" for name, value in lines)
            caller.sendall(f"POST /v1/predict HTTP/1.1\r\n{head}\r\n".encode())
            caller.sendall(b"%x\r\n%b\r\n" % (len(file), file))
            begun = time.monotonic()
            caller.settimeout(1)
            while time.monotonic() - begun < 120:
                caller.sendall(b"1\r\na\r\n")
                try:
                    said = caller.recv(4096).split(b"\r\n")[0].decode()
                except TimeoutError:
                    continue
                return f"{said} after {time.monotonic() - begun:.0f} s"
        return "taken for 120 s"

    def at_once(number: int, path: str, *parts: Any) -> Callable[[Server], str]:
        def run(server: Server) -> str:
            doing = [partial(_call, server, path, *parts)] * number
            seconds, found = timed(together, doing)
            statuses = Counter(status for status, _ in found)
            return f"{seconds:.1f} s: {dict(statuses)}"

        return run

    def leaving(server: Server) -> str:
        body, headers = form(*enrolment(40))
        lines = [*({**LET_IN, **headers, "Host": "localhost"}).items()]
        head = "".join(f"{name}: {value}\r\n" for name, value in lines)
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port)) as caller:
                length = f"Content-Length: {len(body)}\r\n\r\n"
                caller.sendall(f"POST /v1/enrol HTTP/1.1\r\n{head}{length}".encode() + body)
        time.sleep(10)
        used = server.cpu()
        time.sleep(3)
        return f"{server.cpu() - used:.1f} s of CPU in 3 s, 10 s after they have gone"

    def strangers(server: Server) -> str:
        asked = [_call(server, "/v1/describe", token=token)[0] for token in ("", *["wrong"] * 12)]
        return " ".join(map(str, asked))

    file = part + b'"files"; filename="a"\r\n\r\n'
    yield Attack("a field of 1 GB", send("/v1/enrol", part + b'"labels"\r\n\r\n', 1 << 10))
    yield Attack("a file of 1 GB", send("/v1/predict", file, 1 << 10))
    yield Attack("the head of a part of 300 MB", send("/v1/predict", part, 300, fill=b"a"))
    yield Attack("300 MB before the first part", send("/v1/predict", b"\r\n", 300, fill=b"\n"))
    yield Attack("300 MB behind the last part", send("/v1/predict", form()[0], 300, fill=b"a"))
    yield Attack("a body that does not end", endless)
    yield Attack("100,000 fields", call("/v1/enrol", *[("labels", "joy")] * 100_000))
    many = [("files", "a.wav", bytes(20_000))] * 1000
    yield Attack("8 calls of 1,000 files", at_once(8, "/v1/enrol", *many))
    yield Attack("40 calls at once", at_once(40, "/v1/enrol", *enrolment(2)))
    yield Attack("98 labels", call("/v1/enrol", *enrolment(98)))
    yield Attack("20 callers that go", leaving)
    yield Attack("a model of 200 overlapping entries", describe(overlapping(200)))
    yield Attack("a table of 300 x 300", table)
    yield Attack("a zip bomb", describe(_bomb()))
    yield Attack(
        "a clip of 1,024 channels",
        call("/v1/enrol", ("files", "a", _wide(clips[0][1])), ("labels", "joy")),
    )
    yield Attack("no model", call("/v1/predict", ("model", "m", sound), ("files", "a", sound)))
    yield Attack("no token, and wrong ones", strangers)


def _call(server: Server, path: str, *parts: Any, token: str = TOKEN) -> tuple[int, bytes]:
    body, headers = form(*parts)
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    return Visitor(server.port, alive=False).ask("POST", path, body, headers, 900)


def _wide(sound: np.ndarray) -> bytes:
    return wav(np.tile(sound[:32_000, None], 1024))


# ---- many visitors at once


def crowd(
    server: Server, clips: list[tuple[str, np.ndarray]], visitors: int, minutes: float
) -> list[list[str]]:
    """Seconds that each of so many visitors waits, the 95th percentile, beside one alone.

    All enrol at once, and when the last has, all recognise; again and again for so many minutes, of
    which the first round, one in each sixth of the time and the last are told.
    """

    def visit(place: int, meet: threading.Barrier) -> tuple[list[float], list[float]]:
        visitor = Visitor(server.port)
        for label in sorted({label for label, _ in clips}):
            own = [samples for name, samples in clips if name == label]
            each = [own_clip(100 * place + index, samples) for index, samples in enumerate(own)]
            visitor.add(label, *each)
        meet.wait()
        enrolments = [timed(visitor.enrol)]
        recording = visitor.give("a.wav", wav(clips[place % len(clips)][1]))
        meet.wait()
        recognitions = [timed(visitor.recognise, recording) for _ in range(10)]
        visitor.close()
        seconds = []
        for found, right in ((enrolments, "Leaving out each"), (recognitions, "probability of")):
            if not all(right in said for _, said in found):
                raise UserError(f"a visitor of {meet.parties} got another answer; see the server's")
            seconds.append([second for second, _ in found])
        return seconds[0], seconds[1]

    def measure(number: int, minute: float) -> list[str]:
        before, meet = server.cpu(), threading.Barrier(number, timeout=600)
        doing = [partial(visit, place, meet) for place in range(number)]
        seconds, found = timed(together, doing)
        used = (server.cpu() - before) / seconds
        both = zip(*found, strict=True)
        worst = [np.percentile(np.concatenate(kind), 95) for kind in both]
        cells = [f"{minute:.0f}", *(f"{value:.2f}" for value in worst), f"{used:.1f}"]
        return [str(number), *cells, f"{server.memory()[0]:.0f}"]

    visit(0, threading.Barrier(1))  # so that all programs are compiled
    rows = [["visitors", "minute", "enrol, s", "recognise, s", "cores busy", "memory, MB"]]
    rows += [measure(1, 0), measure(visitors, 0)]
    begun = time.monotonic()
    due, last = minutes / 6, []
    while (minute := (time.monotonic() - begun) / 60) < minutes:
        last = [measure(visitors, minute)]
        if minute >= due:
            rows += last
            due += minutes / 6
    return rows + (last if last != rows[-1:] else [])


def main() -> None:
    """Runs them and prints the tables."""
    args = flags.FLAGS
    if not args.checkpoint:
        raise UserError("--checkpoint is missing; for example --checkpoint=runs/start")
    clips = speech(20)
    with tempfile.TemporaryDirectory() as folder:
        server = start(args.checkpoint, args.encoder, Path(folder))
        try:
            print(text_table(crowd(server, clips, args.visitors, args.minutes)), flush=True)
            if not args.attacks:
                return
            time.sleep(70)  # until the sessions of before are gone
            idle, _ = server.memory()
            for name, made in (("the page", attacks(clips)), ("the HTTP interface", calls(clips))):
                print(f"\n{name}; MB above the {idle:.0f} MB of the idle server, and of disk:\n")
                for attack in made:
                    print(_outcome(server, attack, idle), flush=True)
            time.sleep(args.wait)
            now, _ = server.memory()
            disk, number = server.disk()
            verdict = "" if now - idle < REMAINING and not number else "  TOO MUCH"
            print(
                f"\n{args.wait:.0f} s after the last page was closed: {now - idle:+.0f} MB, disk "
                f"{disk:.0f} MB in {number} files{verdict}"
            )
        finally:
            server.process.send_signal(signal.SIGTERM)
            print(f"ended with {server.process.wait(30)}; left: {os.listdir(folder)}")


def _outcome(server: Server, attack: Attack, idle: float) -> str:
    """A line of what an attack did."""
    server.memory()
    seconds, said = timed(attack.run, server)
    now, most = server.memory()
    disk, number = server.disk()
    verdict = "" if most - idle < BOUND else "  TOO MUCH"
    return (
        f"{attack.name}: peak {most - idle:+.0f}, then {now - idle:+.0f}; disk {disk:.0f} in "
        f"{number} files; {seconds:.0f} s; {said}{verdict}"
    )


def define_flags() -> None:
    """The start, how many visitors, and how long is waited."""
    flags.DEFINE_string("checkpoint", "", "What `serve` starts from.")
    flags.DEFINE_string("encoder", "", "Weights of the encoder, where the start needs them.")
    flags.DEFINE_integer("visitors", 10, "Visitors at once.", 1)
    flags.DEFINE_float("minutes", 0, "For which the visitors come again and again.", 0)
    flags.DEFINE_float("wait", 200, "Seconds between the last page and the last figures.", 0)
    flags.DEFINE_boolean("attacks", True, "False: nothing but the visitors.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
