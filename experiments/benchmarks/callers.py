"""Users of the HTTP interface at once: how long they wait, and whether each gets what is its own.

`python -m experiments.benchmarks.callers --checkpoint=descriptors --corpus=DIR` starts the server.
Each of `--users` has a speaker's clips, under labels of its own, and five recordings. It enrols and
recognises them alone, then with the others for `--seconds`. An answer is wrong where it differs
from the one that the same call got alone, be it by a letter.
"""

import csv
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments.benchmarks.attack import LET_IN, Server, start
from experiments.benchmarks.visitor import Visitor, form, timed, together
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import text_table

EMOTIONS, CLIPS, RECORDINGS = 3, 4, 5
"""Of a user; clips of each emotion."""


class User(NamedTuple):
    """The parts of its enrolment, and of its recordings' recognitions beside the model."""

    enrolment: Sequence[tuple]
    recordings: Sequence[tuple]


class Answers(NamedTuple):
    """Of a user's calls: each one's seconds, and what was said, by the call's number."""

    seconds: list[float]
    said: list[bytes]


def users(corpus: Path, number: int) -> list[User]:
    """So many, of whom each has its own labels, and as far as there are, its own speaker."""
    with (corpus / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    speakers = sorted({row["speaker"] for row in rows})
    found = []
    for place in range(number):
        chance = np.random.default_rng(place)
        own = [row for row in rows if row["speaker"] == speakers[place % len(speakers)]]
        emotions = sorted({row["emotion"] for row in own})
        chosen = chance.choice(emotions, EMOTIONS, replace=False)
        enrolment, recordings = [], []
        for emotion in chosen:
            paths = [row["path"] for row in own if row["emotion"] == emotion]
            for path in chance.permutation(paths)[:CLIPS]:
                enrolment.append(("files", Path(path).name, (corpus / path).read_bytes()))
                enrolment.append(("labels", f"{emotion} of {place}"))
        for path in chance.permutation([row["path"] for row in own])[:RECORDINGS]:
            recordings.append(("files", Path(path).name, (corpus / path).read_bytes()))
        found.append(User(enrolment, recordings))
    return found


def ask(port: int, path: str, *parts: tuple) -> bytes:
    """A call's answer.

    Raises:
        UserError: it has another status than 200.
    """
    body, headers = form(*parts)
    visitor = Visitor(port, alive=False)
    status, said = visitor.ask("POST", path, body, headers | LET_IN, timeout=300)
    if status != 200:
        raise UserError(f"{path} answered {status}: {said[:200]!r}; start the server alone")
    return said


def visit(port: int, user: User) -> Answers:
    """A user enrols once, and recognises its recordings one by one."""
    begun, model = timed(ask, port, "/v1/enrol", *user.enrolment)
    seconds, said = [begun], [model]
    for recording in user.recordings:
        second, answer = timed(ask, port, "/v1/predict", ("model", "my.model", model), recording)
        seconds.append(second)
        said.append(answer)
    return Answers(seconds, said)


def row(server: Server, number: int, found: Sequence[Answers], wrong: int, cpu: float) -> list[str]:
    """A line of the table: the calls of so many users, who took so many seconds of CPU."""
    enrolments = [own.seconds[0] for own in found]
    predictions = [second for own in found for second in own.seconds[1:]]
    cells = [str(number)]
    for seconds in (enrolments, predictions):
        median, late = np.percentile(seconds, (50, 95))
        cells += [str(len(seconds)), f"{median:.2f}", f"{late:.2f}"]
    calls = len(enrolments) + len(predictions)
    return [*cells, str(wrong), f"{cpu / calls:.2f}", f"{server.memory()[0]:.0f}"]


def main() -> None:
    """Prints a line for users one by one, and one for all at once."""
    args = flags.FLAGS
    if not (args.checkpoint and args.corpus):
        raise UserError(
            "--checkpoint and --corpus are needed; for example --checkpoint=descriptors"
        )
    served = users(Path(args.corpus), args.users)
    head = ["users", "enrolments", "s", "95%", "predictions", "s", "95%", "wrong", "CPU s", "MB"]
    with tempfile.TemporaryDirectory() as folder:
        server = start(args.checkpoint, args.encoder, Path(folder))
        try:
            visit(server.port, served[0])  # so that all programs are compiled
            begun = server.cpu()
            alone = [visit(server.port, user) for user in served]
            rows = [head, row(server, 1, alone, 0, server.cpu() - begun)]

            begun, until = server.cpu(), time.monotonic() + args.seconds

            def go_on(user: User) -> list[Answers]:
                found = []
                while time.monotonic() < until or not found:
                    found.append(visit(server.port, user))
                return found

            found = together([partial(go_on, user) for user in served])
            wrong = sum(
                answer != right
                for own, expected in zip(found, alone, strict=True)
                for visited in own
                for answer, right in zip(visited.said, expected.said, strict=True)
            )
            visits = [visited for own in found for visited in own]
            rows.append(row(server, args.users, visits, wrong, server.cpu() - begun))
            print(text_table(rows))
            print(f"files that are left: {server.disk()[1]}")
        finally:
            server.process.terminate()
            server.process.wait(30)


def define_flags() -> None:
    """The start, the clips, and how many users come for how long."""
    flags.DEFINE_string("checkpoint", "", "What `serve` starts from.")
    flags.DEFINE_string("encoder", "", "Weights of the encoder, where the start needs them.")
    flags.DEFINE_string("corpus", "", "A folder with a manifest.csv: path, emotion and speaker.")
    flags.DEFINE_integer("users", 10, "Users at once.", 1)
    flags.DEFINE_float("seconds", 60, "For which they call.", 1)


if __name__ == "__main__":
    define_flags()
    console.run(main)
