"""What one visitor of the web page can do to it: memory and disk of the server, attack by attack.

`python -m experiments.benchmarks.attack --checkpoint=runs/start` starts the server itself, runs
every attack with nothing but what a visitor can send, and prints for each what the server said, how
far its memory rose above that of the idle server at most, what stayed when the attack was over, and
the disk. At the end all pages are closed, and after `--wait` seconds the same is printed of what
remains. Before that, `--visitors` enrol and recognise at once, beside one alone.

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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from absl import flags

from experiments.benchmarks.visitor import Visitor, as_file, multipart, timed, together
from fmaml_jax.common import archive, console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import text_table
from fmaml_jax.synthesis.speech import emofilm_clips, render

BOUND, REMAINING = 1000, 100
"""Megabytes above the idle server: at most during a request, and when all pages are closed."""
RATE = 16_000


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


def start(checkpoint: str, folder: Path) -> Server:
    """Starts the server and waits until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fmaml_jax.serve", f"--checkpoint={checkpoint}"]
    process = subprocess.Popen(
        [*command, f"--port={port}"], env={**os.environ, "TMPDIR": str(folder)}
    )
    server = Server(process, port, folder)
    for _ in range(600):
        try:
            if Visitor(port, alive=False).ask("GET", "/config")[0] == 200:
                return server
        except OSError:
            time.sleep(0.1)
    raise UserError("the server does not answer; start it alone, to see why")


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


def wav(samples: np.ndarray, rate: int = RATE, kind: str = "PCM_16") -> bytes:
    """The samples as a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, kind, format="WAV")
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


def stream(port: int, path: str, head: bytes, size: int, headers: dict[str, str]) -> str:
    """Sends a body of so many zeros behind its head, as far as the server takes it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("POST", path)
    for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    block, sent = bytes(1 << 20), 0
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
        answers = [visitor.join("Enrol", ["neutral", "silence"])[0] for _ in range(30)]
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
            visitor.join("Recognise", recording, 0)
            listening.append(visitor.listen())
            next(listening[-1])
        seconds = [timed(fifth.recognise, clip)[0] for _ in range(3)]
        for visitor, listens in zip(busy, listening, strict=True):
            listens.close()
            visitor.close()
        time.sleep(10)
        used = [_cpu(server.process.pid)]
        time.sleep(3)
        used.append(_cpu(server.process.pid))
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
        said = visitor.do("Recognise", as_file("/etc/passwd"), 0)
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
    yield Attack("a clip of 1,024 channels", add("joy", wav(np.tile(sound[:32_000, None], 1024))))
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
    said = visitor.enrol()
    model = _model_of(said)
    estimate = {"left_out": "clip", "interval": [0.1, 0.9]}
    estimate |= {"confusion": np.ones((300, 300), int).tolist()}
    seconds, said = timed(visitor.load, with_entries(model, estimate=estimate))
    visitor.close()
    return f"{seconds:.1f} s: {shorten(said)}"


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


def _cpu(process: int) -> float:
    """Seconds of CPU that a process has used."""
    cells = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")


# ---- many visitors at once


def crowd(server: Server, clips: list[tuple[str, np.ndarray]], visitors: int) -> list[list[str]]:
    """Seconds that each of so many visitors waits, the 95th percentile, beside one alone.

    All enrol at once, and when the last has, all recognise.
    """

    def visit(place: int, meet: threading.Barrier) -> tuple[list[float], list[float]]:
        visitor = Visitor(server.port)
        for label in sorted({label for label, _ in clips}):
            own = [samples for name, samples in clips if name == label]
            each = [own_clip(100 * place + index, samples) for index, samples in enumerate(own)]
            visitor.add(label, *each)
        meet.wait()
        enrolments = [timed(visitor.enrol)[0]]
        recording = visitor.give("a.wav", wav(clips[place % len(clips)][1]))
        meet.wait()
        recognitions = [timed(visitor.recognise, recording)[0] for _ in range(10)]
        visitor.close()
        return enrolments, recognitions

    visit(0, threading.Barrier(1))  # so that all programs are compiled
    rows = [["visitors", "enrol, s", "recognise, s"]]
    for number in (1, visitors):
        before = _cpu(server.process.pid)
        meet = threading.Barrier(number)
        seconds, found = timed(together, [partial(visit, place, meet) for place in range(number)])
        used = (_cpu(server.process.pid) - before) / seconds
        both = zip(*found, strict=True)
        worst = [np.percentile(np.concatenate(kind), 95) for kind in both]
        rows.append([str(number), *(f"{value:.2f}" for value in worst), f"{used:.1f} cores busy"])
    rows[0].append("server")
    return rows


def main() -> None:
    """Runs them and prints the tables."""
    args = flags.FLAGS
    if not args.checkpoint:
        raise UserError("--checkpoint is missing; for example --checkpoint=runs/start")
    clips = speech(20)
    with tempfile.TemporaryDirectory() as folder:
        server = start(args.checkpoint, Path(folder))
        try:
            rows = crowd(server, clips, args.visitors)
            print(text_table(rows), flush=True)
            if args.attacks:
                _settle(server)
            idle, _ = server.memory()
            print(f"\nidle: {idle:.0f} MB; MB above it, and of disk:\n", flush=True)
            for attack in attacks(clips) if args.attacks else ():
                server.memory()
                seconds, said = timed(attack.run, server)
                now, most = server.memory()
                disk, number = server.disk()
                verdict = "" if most - idle < BOUND else "  TOO MUCH"
                print(
                    f"{attack.name}: peak {most - idle:+.0f}, then {now - idle:+.0f}; disk "
                    f"{disk:.0f} in {number} files; {seconds:.0f} s; {said}{verdict}",
                    flush=True,
                )
            time.sleep(args.wait if args.attacks else 0)
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


def _settle(server: Server) -> None:
    """Until the sessions of before are gone."""
    time.sleep(70)
    server.memory()


def define_flags() -> None:
    """The start, how many visitors, and how long is waited."""
    flags.DEFINE_string("checkpoint", "", "Folder of a finished run of experiments/start.cfg.")
    flags.DEFINE_integer("visitors", 10, "Visitors at once.", 1)
    flags.DEFINE_float("wait", 200, "Seconds between the last page and the last figures.", 0)
    flags.DEFINE_boolean("attacks", True, "False: nothing but the visitors.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
