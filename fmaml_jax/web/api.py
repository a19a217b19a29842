"""The HTTP interface of `serve --api`, and the socket of `--live`: calls that leave nothing behind.

A model is a file, as everywhere: `enrol` answers with it, and what asks for predictions sends it
along. So no call knows of another, and none has to end anything. A call is a `Session` as long as
it lasts, and so has the page's bounds, and its turns to work. Who may call, and how much may be
sent, is the guard's business (`guard.py`).
"""

import asyncio
import contextlib
import io
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, File, Form, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import one_spelling
from fmaml_jax.recognition import Recogniser, enrol, load, save
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.formats import FORMATS, SCHEMA
from fmaml_jax.recognition.live import answerer, require_samples, windows
from fmaml_jax.recognition.support import read_clip_as
from fmaml_jax.web.guard import API, LIVE
from fmaml_jax.web.session import (
    LARGEST_MODEL,
    LONGEST_RECORDING,
    MOST_CLIPS,
    LeftError,
    Session,
    Sessions,
    Turns,
    recognise,
    remove,
)

MOST_FIELDS, LARGEST_FIELD = 3 * MOST_CLIPS, 1 << 10
"""Of a call: fields, and bytes of one; a clip has a label and a speaker."""
LARGEST_BLOCK = 1 << 20
"""Bytes of sound in one message of a socket: half a minute."""
QUIET_SECONDS = 60.0
"""After which a socket that sends nothing is closed."""
_NO_FILE = "Value error, Expected UploadFile, received: <class 'str'>"
MultiPartParser.spool_max_size = 1 << 14  # bytes of each file that are held in memory

Call = Callable[[Session, Callable[[], None]], Any]


class Doors(NamedTuple):
    """Which interfaces are open beside the page: HTTP, sockets; and their token, "" for none."""

    http: bool = False
    live: bool = False
    token: str = ""


class _Callers(NamedTuple):
    """All who call, whose turn it is to work, and the threads that do."""

    sessions: Sessions
    turns: Turns
    threads: CapacityLimiter


class Health(BaseModel):
    """That the service answers."""

    status: str = "ok"


class Error(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="one sentence")


class Class(BaseModel):
    """What a model can answer."""

    name: str
    clips: int = Field(description="that it was enrolled with")
    known_as: str = Field(description="the class of the start that it began as; empty: new")


class Estimate(BaseModel):
    """How well the model does on clips that it was not enrolled with."""

    recall: float = Field(description="mean over the classes (UAR)")
    interval: tuple[float, float] = Field(description="95% interval of the recall")
    chance: float
    clips: int = Field(description="that were left out in turn")
    left_out: str = Field(description="what was left out in turn: clip, stretch of speech, speaker")


class Model(BaseModel):
    """What is in a model file."""

    classes: list[Class]
    estimate: Estimate | None = Field(description="none where no clip could be left out")
    warnings: list[str]


class _Route(APIRoute):
    """Takes forms in known parts, no more of them than a call has, and none that are long."""

    def get_route_handler(self) -> Callable:
        answer = super().get_route_handler()
        taken = [field.alias for field in self.dependant.body_params]

        async def bounded(request: Request) -> Response:
            if request.method == "POST":
                kind = request.headers.get("content-type", "")
                if not kind.lower().startswith("multipart/form-data"):
                    raise HTTPException(415, "Send multipart/form-data, as curl -F does.")
                form = await request.form(  # is kept for what reads it after this
                    max_files=MOST_CLIPS + 1, max_fields=MOST_FIELDS, max_part_size=LARGEST_FIELD
                )
                for name in request.query_params:
                    raise HTTPException(
                        422, f"Send {name!r} as a part of the form, not in the address."
                    )
                for name in form.keys() - taken:  # passed over, a slip would change the answer
                    raise HTTPException(
                        422, f"There is no field {name!r} here; send {', '.join(taken)} alone."
                    )
            return await answer(request)

        return bounded


def make_api(start: Start, folder: str, sessions: Sessions, turns: Turns, doors: Doors) -> FastAPI:
    """The interfaces that are open.

    Args:
        start: what is enrolled in.
        folder: where files are while they are read.
        sessions: of the page, and of calls.
        turns: of both to work.
        doors: which of them are open.
    """
    app = FastAPI(
        title="fmaml_jax",
        version="1",
        description="Few labelled clips make a model; a model labels recordings.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # whose scripts are others'
        redoc_url=None,
        generate_unique_id_function=attrgetter("name"),  # which generated functions are called by
    )
    app.router.route_class = _Route
    callers = _Callers(sessions, turns, CapacityLimiter(1000))  # of whom most wait for their turn
    call = partial(_call, callers)
    _add_errors(app)

    @app.get("/v1/health")
    async def health() -> Health:
        return Health()

    if doors.http:
        _add_calls(app, start, folder, call, bool(doors.token))
    if doors.live:

        @app.websocket(LIVE)
        async def live(socket: WebSocket) -> None:
            await _listen(socket, start, folder, callers)

    return app


def _add_errors(app: FastAPI) -> None:
    """Everything that is refused is said in one sentence."""

    def say(status: int, sentence: str) -> Response:
        return JSONResponse({"error": sentence}, status)

    @app.exception_handler(UserError)
    async def _(_: Request, error: UserError) -> Response:
        return say(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][1:])) or "the form"
        wrong = first["msg"].replace(_NO_FILE, "text was sent in place of a file")
        return say(422, f"{name}: {wrong}; /v1/openapi.json says what is taken")

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        if error.status_code in (404, 405):
            there = f"{request.method} {request.url.path} is no call"
            return say(error.status_code, f"{there}; /v1/openapi.json says what is.")
        return say(error.status_code, str(error.detail))

    @app.exception_handler(LeftError)
    async def _(_: Request, error: LeftError) -> Response:
        return say(503, "The server ends.")

    @app.exception_handler(Exception)
    async def _(_: Request, error: Exception) -> Response:
        return say(500, "Something is wrong with this program; its log says where.")


def _add_calls(app: FastAPI, start: Start, folder: str, call: Callable, secured: bool) -> None:
    refusals = (400, 401, 413, 415, 422, 429, 503, 507)
    answers: dict[int | str, dict[str, Any]] = {status: {"model": Error} for status in refusals}
    document = {"$ref": "#/components/schemas/Predictions"}
    asked: dict[str, Any] = {
        "dependencies": [Depends(HTTPBearer(auto_error=False))] if secured else []
    }

    def posted(path: str, **answer: Any) -> Callable:
        own: dict[str, Any] = {"responses": answers, "name": path.removeprefix(API)}
        if answer:  # and no JSON beside it, which the answer of any other class is said to be
            own |= {"responses": answers | {200: answer}, "response_class": Response}
        return app.post(path, **own, **asked)

    @posted(
        "/v1/enrol",
        content={"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        description="The model file, as `python -m fmaml_jax.enrol` writes it.",
    )
    async def enrol_clips(
        request: Request,
        files: Annotated[list[UploadFile], File(description="Clips of at most 60 s.")],
        labels: Annotated[list[str], Form(description="Of each file, in the same order.")],
        speakers: Annotated[
            list[str], Form(description="Of each file, in the same order; or none at all.")
        ] = [],  # noqa: B006, which FastAPI copies
        same_as: Annotated[
            list[str], Form(description="label=class: a label that means a class of the start.")
        ] = [],  # noqa: B006
        without: Annotated[
            list[str], Form(description="Classes without clips that are not to be answered.")
        ] = [],  # noqa: B006
    ) -> Response:
        """Labelled clips make a model, which is the answer: a file to keep."""
        learn = partial(_learn, start, folder, files, labels, speakers, same_as, without)
        return Response(await call(request, learn), media_type="application/octet-stream")

    @posted("/v1/describe")
    async def describe(request: Request, model: Annotated[UploadFile, File()]) -> Model:
        """What a model can answer, how good it is, and what was wrong with its clips."""

        def look(session: Session, _: Callable[[], None]) -> Model:
            return _described(_loaded(session, start, folder, model))

        return await call(request, look)

    @posted(
        "/v1/predict",
        content={"application/json": {"schema": document}},
        description="Of each file, in the same order, what was heard when.",
    )
    async def predict(
        request: Request,
        model: Annotated[UploadFile, File(description="What /v1/enrol answered.")],
        files: Annotated[list[UploadFile], File(description="Recordings of at most 60 minutes.")],
        abstain: Annotated[
            float, Form(ge=0, le=1, description="Less probable answers are 'unsure'.")
        ] = 0.0,
    ) -> Response:
        """Recordings get their labels, from a model file that is sent along."""
        text = await call(request, partial(_recognised, start, folder, model, files, abstain))
        return Response(text, media_type="application/json")

    own = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            # Generators of clients know files by this older name alone.
            text = json.dumps(own())
            named = '"contentMediaType": "application/octet-stream"', '"format": "binary"'
            document = json.loads(text.replace(*named))
            schemas = document["components"]["schemas"]
            schemas |= _prediction_schemas()
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            app.openapi_schema = document
        return app.openapi_schema or {}

    app.openapi = openapi


def _prediction_schemas() -> dict[str, Any]:
    """The schema of predictions in the places that an OpenAPI document has for schemas."""
    text = SCHEMA.read_text(encoding="utf-8")
    text = re.sub(
        r'"#/\$defs/(\w)', lambda found: f'"#/components/schemas/{found[1].upper()}', text
    )
    schema = json.loads(text)
    defined = {name.capitalize(): own for name, own in schema.pop("$defs").items()}
    del schema["$schema"], schema["title"]
    return {"Predictions": schema, **defined}


# ---- calls


async def _call(callers: _Callers, request: Request, action: Call) -> Any:
    """Does an action when it is the caller's turn; not to its end where the caller goes.

    Raises:
        HTTPException: too many are calling.
        LeftError: the caller has gone, or the server ends.
    """

    async def watch(session: Session) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        session.ended = True

    with _session(callers.sessions, request.client.host if request.client else "") as session:
        watching = asyncio.create_task(watch(session))
        try:
            return await _work(callers, session, action)
        finally:
            watching.cancel()


@contextlib.contextmanager
def _session(sessions: Sessions, address: str) -> Iterator[Session]:
    number = secrets.token_hex(16)
    session = sessions.begin(number, address)
    if session is None:
        raise HTTPException(503, "Too many calls and pages at once; try again later.")
    try:
        with session.connected(listening=True):
            yield session
    finally:
        sessions.end(number)


async def _work(callers: _Callers, session: Session, action: Call) -> Any:
    def work() -> Any:
        with callers.turns.turn(session) as pass_on:
            return action(session, pass_on)

    return await to_thread.run_sync(work, limiter=callers.threads)


def _learn(
    start: Start,
    folder: str,
    files: Sequence[UploadFile],
    labels: Sequence[str],
    speakers: Sequence[str],
    same_as: Sequence[str],
    without: Sequence[str],
    session: Session,
    pass_on: Callable[[], None],
) -> bytes:
    """The model file of the clips."""
    for name, given in (("labels", labels), ("speakers", speakers)):
        if len(given) != len(files) and (given or name == "labels"):
            raise UserError(
                f"there are {len(files)} files and {len(given)} {name}; give as many of both, in "
                "the same order"
            )
    meanings = dict(map(_meaning, same_as))
    clips = []
    named = zip(one_spelling(labels), one_spelling(speakers or [""] * len(files)), strict=True)
    for file, (label, speaker) in zip(files, named, strict=True):
        with _as_file(session, file, folder) as path:
            clips.append(read_clip_as(path, label, start, speaker=speaker))
        pass_on()
    recogniser = enrol(start, clips, same_as=meanings, without=without)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place, "my.model")
        save(recogniser, path)
        return path.read_bytes()


def _meaning(item: str) -> tuple[str, str]:
    label, equals, meaning = item.partition("=")
    if not (label and equals and meaning):
        raise UserError(f"same_as={item} is not of the form label=class, such as gniew=anger")
    return label.strip(), meaning.strip()


def _loaded(session: Session, start: Start, folder: str, model: UploadFile) -> Recogniser:
    with _as_file(session, model, folder) as path:
        if path.stat().st_size > LARGEST_MODEL:
            raise UserError(f"{path.name} is larger than any model; send another file")
        try:
            return load(path, start.encoder)
        except UserError as error:  # nobody is to know where files are
            raise UserError(str(error).replace(str(path), path.name)) from error


def _described(recogniser: Recogniser) -> Model:
    estimate = recogniser.estimate
    named = zip(recogniser.classes, recogniser.counts, recogniser.known_as, strict=True)
    return Model(
        classes=[Class(name=name, clips=clips, known_as=own) for name, clips, own in named],
        estimate=Estimate(
            recall=estimate.uar,
            interval=estimate.interval,
            chance=estimate.chance,
            clips=estimate.clips,
            left_out=estimate.left_out,
        )
        if estimate.clips
        else None,
        warnings=list(recogniser.warnings),
    )


def _recognised(
    start: Start,
    folder: str,
    model: UploadFile,
    files: Sequence[UploadFile],
    abstain: float,
    session: Session,
    pass_on: Callable[[], None],
) -> str:
    """The document of what is heard."""
    session.recogniser = _loaded(session, start, folder, model)
    found = []
    for file in files:
        with _as_file(session, file, folder) as path:
            heard = recognise(session, str(path), abstain, lambda _: pass_on())
        found.append(heard._replace(file=file.filename or path.name))
    document = io.StringIO()
    FORMATS["json"].write(found, document)
    return document.getvalue()


@contextlib.contextmanager
def _as_file(session: Session, upload: UploadFile, folder: str) -> Iterator[Path]:
    """What was sent as a file of its name, in a folder of its own that nobody can guess."""
    name = re.sub(r"[/\\\0]", "_", upload.filename or "")[-60:]
    path = Path(folder, secrets.token_hex(24), name if name.strip(".") else "file")
    path.parent.mkdir()
    session.recording = path  # which is not cleared away, however long it waits
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file)
        yield path
    finally:
        session.recording = None
        remove(path)


# ---- sockets


class _ClosedError(Exception):
    """Why a socket is closed: a code and a sentence."""

    def __init__(self, code: int, sentence: str):
        super().__init__(sentence)
        self.code = code


async def _listen(socket: WebSocket, start: Start, folder: str, callers: _Callers) -> None:
    """A model file, then sound; an answer for each second of it. See docs/live.md."""
    await socket.accept()
    try:
        with _session(callers.sessions, socket.client.host if socket.client else "") as session:
            work = partial(_work, callers, session)
            model = UploadFile(io.BytesIO(await _next_of(socket, LARGEST_MODEL)))

            def make(session: Session, _: Callable[[], None]) -> tuple[Any, Sequence[str]]:
                recogniser = _loaded(session, start, folder, model)
                return answerer(recogniser), recogniser.classes

            answer, classes = await work(make)
            await socket.send_json({"classes": classes})
            heard, number = bytearray(), 0
            while number < LONGEST_RECORDING:
                heard += await _next_of(socket, LARGEST_BLOCK)
                if not number:
                    require_samples(heard)
                for samples in windows(heard):
                    said = await work(lambda *_, n=number, s=samples: answer(n, s))
                    await socket.send_json(said)
                    number += 1
            raise _ClosedError(1000, "an hour of sound is the most; connect again")
    except WebSocketDisconnect:
        return
    except LeftError:
        code, sentence = 1001, "the server ends"
    except UserError as error:
        code, sentence = 1008, str(error)
    except HTTPException as error:
        code, sentence = 1013, str(error.detail)
    except _ClosedError as error:
        code, sentence = error.code, str(error)
    with contextlib.suppress(WebSocketDisconnect):
        await socket.send_json({"error": sentence})
        await socket.close(code)


async def _next_of(socket: WebSocket, most: int) -> bytes:
    """The bytes of the next message.

    Raises:
        WebSocketDisconnect: the other side has gone.
        _ClosedError: it is text or too long, or nothing comes.
    """
    try:
        message: Message = await asyncio.wait_for(socket.receive(), QUIET_SECONDS)
    except TimeoutError:
        raise _ClosedError(1001, f"nothing came for {QUIET_SECONDS:.0f} s") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    if (content := message.get("bytes")) is None:
        raise _ClosedError(
            1003, "text is not taken; send a model file, then 16-bit samples at 16 kHz, as bytes"
        )
    if len(content) > most:
        raise _ClosedError(1009, f"a message has at most {most >> 10:,} kB here; send shorter ones")
    return content
