"""`python -m fmaml_jax.serve --checkpoint=RUN_DIR`: enrolment and prediction on a web page.

What a user gives is a `Session` in the server's memory, under the random number that Gradio gives
each page, and goes when the page is closed. A labelled clip's file is removed as soon as it has
been read, a recording's when it is cleared or the page is closed; results are sent within the page,
not as files. Nothing leaves the machine: no analytics, fonts or scripts of others, as a content
security policy enforces.
"""

import base64
import contextlib
import dataclasses
import functools
import html
import io
import os
import re
import secrets
import sys
import tempfile
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from absl import flags
from matplotlib.figure import Figure

from fmaml_jax.audio.decoding import SAMPLE_RATE, AudioError, probe, read_clip
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import Prediction, Recogniser, enrol, load, predict, save
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.formats import FORMATS
from fmaml_jax.recognition.pictures import draw_estimate, draw_timeline, png
from fmaml_jax.recognition.support import LabelledClip, describe_findings, read_clip_as
from fmaml_jax.recognition.timeline import CLIP_SECONDS, UNSURE
from fmaml_jax.synthesis.speech import emofilm_clips, render
from fmaml_jax.training.devices import set_up_compilation

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio reads it
try:
    import gradio as gr
except ModuleNotFoundError:
    console.fail("the page needs packages that are not there; `make web` installs them")
from gradio import processing_utils, route_utils
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

LONGEST_RECORDING = 3600.0
"""Seconds."""
LARGEST_UPLOAD = 320 << 20
"""Bytes; an hour of 16-bit mono has 318 million at 44.1 kHz."""
MOST_CLIPS = 1000
NEW = "a new emotion"
PROGRESS = gr.Progress()
AT_ONCE = 4
"""Users whose clips or recordings are worked on at the same time."""
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
"""What a page may load: its own server's, and what it made itself."""
SERVED = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/.*|/gradio_api/(upload|upload_progress"
    r"|startup-events|queue/join|queue/data|heartbeat/\w+|file=/.*)"
)
"""What the page asks for. Gradio has sixty more addresses: some fetch from elsewhere, some edit."""
STYLE = """
.gradio-container {max-width: min(880px, 100vw) !important; margin: auto}
.picture {width: 100%; max-width: 640px; height: auto; margin: 0.6em auto}
td, .note {overflow-wrap: break-word}
.prose td, .prose th {padding: 0.3em 0.6em; border-color: var(--border-color-primary) !important}
.downloads a {display: inline-block; margin: 0 0.2em 0.4em; padding: 0.3em 0.8em;
  border: 1px solid var(--border-color-primary); border-radius: var(--button-large-radius);
  background: var(--button-secondary-background-fill); color: var(--body-text-color);
  text-decoration: none}
@media (max-width: 640px) {.main.app {padding: 12px !important}}
#out {align-self: flex-end}
.note {border-left: 4px solid #D55E00; padding: 0.4em 0.8em; margin: 0.3em 0}
.good {border-color: #009E73}
#recognised .pending {visibility: hidden}
"""


@dataclasses.dataclass
class Session:
    """What one page holds."""

    clips: list[LabelledClip] = dataclasses.field(default_factory=list)
    same_as: dict[str, str] = dataclasses.field(default_factory=dict)
    recogniser: Recogniser | None = None
    recording: Path | None = None


def make_page(start: Start) -> gr.Blocks:
    """The page, whose sessions enrol in `start`."""
    sessions: dict[str, Session] = {}

    def session_of(request: gr.Request) -> Session:
        return sessions.setdefault(request.session_hash, Session())

    def forget(request: gr.Request) -> None:
        _keep(sessions.pop(request.session_hash, Session()), None)

    # ---- what the buttons do: each returns the page's parts that it changes

    def show_clips(session: Session, said: str) -> list[Any]:
        """What changes in step 1 with the clips, see `step_1`."""
        counts = Counter(clip.label for clip in session.clips)
        known = [*start.emotions, *start.fixed]
        return [
            said if said or session.clips else NO_CLIPS,
            gr.update(
                value=_clips_table(session.clips, start, session.same_as),
                visible=bool(session.clips),
            ),
            gr.update(
                choices=[
                    *((f"all of {label}", f"all {label}") for label in counts),
                    *((f"{clip.label}: {clip.name}", clip.digest) for clip in session.clips),
                ],
                value=[],
                visible=bool(session.clips),
            ),
            gr.update(visible=bool(session.clips)),
            gr.update(visible=not session.clips),
            gr.update(choices=[*known, *(label for label in counts if label not in known)]),
            gr.skip() if session.recogniser else NOT_ENROLLED,
        ]

    def add(
        label: str | None,
        meaning: str,
        speaker: str,
        files: str | Sequence[str] | None,
        request: gr.Request,
    ) -> list[Any]:
        session, said = session_of(request), []
        paths = [files] if isinstance(files, str) else files or []
        before = len(session.clips)
        for path in map(Path, paths):
            try:
                if not (label or "").strip():
                    raise UserError("name the emotion first, then give its clips")
                if len(session.clips) >= MOST_CLIPS:
                    raise UserError(f"{MOST_CLIPS} clips are enough; take some out first")
                clip = read_clip_as(path, label, start, speaker=(speaker or "").strip())
            except UserError as error:
                said.append(_note(str(error)))
                continue
            finally:
                path.unlink(missing_ok=True)
            session.clips.append(clip)
            session.same_as[clip.label] = meaning
        if added := session.clips[before:]:
            said.insert(0, _note(f"{_count(len(added), 'clip')} of {label} added", good=True))
            said += map(_note, describe_findings(added, start.fixed))
        return [None, None, *show_clips(session, "".join(said))]

    def show_meaning(label: str | None, request: gr.Request) -> Any:
        label = (label or "").strip()
        known = map(str.casefold, (*start.emotions, *start.fixed))
        return gr.update(
            visible=bool(label) and label.casefold() not in known,
            value=session_of(request).same_as.get(label, NEW),
        )

    def set_meaning(label: str, meaning: str, request: gr.Request) -> list[Any]:
        session = session_of(request)
        session.same_as[label.strip()] = meaning
        return show_clips(session, "")

    def add_examples(request: gr.Request) -> list[Any]:
        session = session_of(request)
        clips, recording = _examples(start)
        session.clips += [clip for clip in clips if clip not in session.clips]
        _keep(session, recording)
        said = _note(
            "Synthetic speech was added, to try the page with; it says nothing about how well "
            "people are recognised. A recording is in step 3.",
            good=True,
        )
        return [*show_clips(session, said), str(recording)]

    def take_out(chosen: Sequence[str], request: gr.Request) -> list[Any]:
        session = session_of(request)
        session.clips = [
            clip
            for clip in session.clips
            if clip.digest not in chosen and f"all {clip.label}" not in chosen
        ]
        return show_clips(session, "")

    def learn(answered: Sequence[str], request: gr.Request) -> list[Any]:
        session = session_of(request)
        labels = {clip.label for clip in session.clips}
        session.recogniser = enrol(
            start,
            session.clips,
            same_as={
                label: meaning
                for label, meaning in session.same_as.items()
                if label in labels and meaning != NEW
            },
            without=[name for name in start.fixed if name not in answered],
        )
        return [_enrolled(session.recogniser), *not_recognised()]

    def take_model(path: str | None, request: gr.Request) -> list[Any]:
        session = session_of(request)
        if not path:
            raise UserError("give the file of a model first")
        try:
            session.recogniser = load(path)
        except UserError as error:
            raise UserError(str(error).replace(path, Path(path).name)) from error
        finally:
            Path(path).unlink(missing_ok=True)
        return [_enrolled(session.recogniser), *not_recognised()]

    def hold(path: str | None, request: gr.Request) -> list[Any]:
        _keep(session_of(request), Path(path) if path else None)
        return not_recognised()

    def not_recognised() -> list[Any]:
        """Step 3 without a result, where the last one was of another recording or model."""
        return [NOT_RECOGNISED, gr.update(visible=False), gr.update(visible=False)]

    def recognise(
        path: str | None,
        abstain: float,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> list[Any]:
        session = session_of(request)
        if session.recogniser is None:
            raise UserError("there is nothing to recognise with yet; enrol in step 2")
        if not path:
            raise UserError("give a recording first: drop a file, or record one")
        name = Path(path).name
        try:
            seconds = probe(path).seconds
        except AudioError as error:
            raise UserError(f"{name} cannot be used: {error}") from error
        if seconds > LONGEST_RECORDING:
            raise UserError(
                f"{name} lasts {seconds / 60:,.0f} minutes, and this page takes "
                f"{LONGEST_RECORDING / 60:.0f} at most; cut it, or use python -m fmaml_jax.predict"
            )
        try:
            found = predict(
                session.recogniser,
                path,
                abstain=abstain,
                report=lambda done: progress(done / seconds, "Listening"),
            )._replace(file=name)
        except UserError as error:
            raise UserError(str(error).replace(path, name)) from error
        is_clip = found.seconds <= CLIP_SECONDS
        chances = found.segments[0].probabilities if is_clip else ()
        return [
            _recognised(found),
            gr.update(value=dict(zip(found.classes, chances, strict=False)), visible=is_clip),
            gr.update(value=_rows(found), visible=not is_clip),
        ]

    # ---- the page
    with gr.Blocks(title="fmaml_jax", delete_cache=(600, 7200)) as page:
        gr.Markdown(
            "# Label a few clips, recognise emotions\n"
            "In any language, with a handful of clips of each emotion. "
            f"{' and '.join(start.fixed).capitalize()} need none. Everything stays on the machine "
            "that serves this page, and is forgotten when you close it."
        )
        gr.Markdown("## 1. Label clips")
        with gr.Row():
            label = gr.Dropdown(
                [*start.emotions, *start.fixed],
                value=None,
                allow_custom_value=True,
                label="Emotion",
                info="Choose one that the checkpoint knows, or type any name.",
                min_width=240,
            )
            meaning = gr.Dropdown(
                [NEW, *start.emotions],
                value=NEW,
                label="It means",
                info="A name in your language for one that is known: much better than new.",
                visible=False,
                min_width=240,
            )
            speaker = gr.Textbox(
                label="Who speaks?",
                info="May stay empty. Makes the estimate honest.",
                max_length=80,
                min_width=240,
            )
        with gr.Row():
            files = gr.File(
                label="Drop clips of this emotion here",
                file_count="multiple",
                height=180,
                elem_id="clips",
            )
            microphone = gr.Audio(
                sources=["microphone"],
                type="filepath",
                label="Or say it",
                editable=False,
                buttons=[],
            )
        said = gr.HTML(NO_CLIPS)
        table = gr.HTML(visible=False)
        with gr.Row():
            chosen = gr.Dropdown(
                [], multiselect=True, label="Take clips out again", visible=False, scale=3
            )
            out = gr.Button("Take out", visible=False, scale=1, elem_id="out")
        examples = gr.Button("No clips at hand? Try with synthetic speech")

        gr.Markdown("## 2. Enrol")
        answered = gr.CheckboxGroup(
            list(start.fixed),
            value=list(start.fixed),
            label="Answers that need no clips",
            info="Untick what your recordings do not hold.",
        )
        enrol_button = gr.Button("Enrol", variant="primary")
        with gr.Accordion("Or load a model that was saved earlier", open=False):
            model = gr.File(label="Model file", file_count="single", height=120, elem_id="model")
        enrolled = gr.HTML(NOT_ENROLLED)

        gr.Markdown("## 3. Recognise")
        recording = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label=f"A clip, or a recording of up to {LONGEST_RECORDING / 60:.0f} minutes",
            editable=False,
            buttons=[],
            elem_id="recording",
        )
        abstain = gr.Slider(
            0, 1, 0, step=0.05, label="Unsure below", info="Probability that an answer must have."
        )
        recognise_button = gr.Button("Recognise", variant="primary")
        # Its height has room for the progress that is shown in its place.
        recognised = gr.HTML(NOT_RECOGNISED, min_height=90, elem_id="recognised")
        chances = gr.Label(label="Probabilities", visible=False, show_heading=False)
        segments = gr.Dataframe(
            headers=["from", "to", "emotion", "sure"],
            datatype="str",
            label="Segments",
            visible=False,
            interactive=False,
            column_widths=["22%", "22%", "32%", "24%"],
            max_height=320,
        )

        # ---- what happens when
        private = {"api_visibility": "private"}
        first, second = ({"show_progress_on": place, **private} for place in (said, enrolled))
        step_1 = [said, table, chosen, out, examples, label, enrolled]
        step_3 = [recognised, chances, segments]
        adds = {"outputs": [files, microphone, *step_1], **first}
        naming = [label, meaning, speaker]
        added = _in_words(add, said, [files, microphone, *step_1])
        files.upload(added, [*naming, files], **adds)
        microphone.stop_recording(added, [*naming, microphone], **adds)
        label.change(show_meaning, label, meaning, **private)
        meaning.input(_in_words(set_meaning, said, step_1), [label, meaning], step_1, **first)
        examples.click(
            _in_words(add_examples, said, [*step_1, recording]),
            None,
            [*step_1, recording],
            concurrency_limit=1,  # the synthesiser speaks in one thread at a time
            **first,
        )
        out.click(_in_words(take_out, said, step_1), chosen, step_1, **first)
        enrols = [enrolled, *step_3]
        enrol_button.click(_in_words(learn, enrolled, enrols), answered, enrols, **second)
        model.upload(_in_words(take_model, enrolled, enrols), model, enrols, **second)
        recording.change(hold, recording, step_3, show_progress="hidden", **private)
        recognise_button.click(
            _in_words(recognise, recognised, step_3), [recording, abstain], step_3, **private
        )
        page.unload(forget)
    return page.queue(default_concurrency_limit=AT_ONCE)


def serve(page: gr.Blocks, host: str, port: int) -> None:
    """Serves the page until it is interrupted.

    Raises:
        UserError: host and port cannot be had.
    """
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            max_file_size=LARGEST_UPLOAD,
            footer_links=[],
            enable_monitoring=False,
            run_history=False,
            theme=gr.themes.Default(
                primary_hue="blue",
                font=["system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
            ).set(
                block_info_text_color="*neutral_500",
                button_primary_background_fill="*primary_600",
            ),
            css=STYLE,
            app_kwargs={"middleware": [Middleware(_Guard)]},
        )
    except OSError as error:
        raise UserError(
            f"cannot serve at {host}:{port} ({error}); choose another --port or --host"
        ) from error
    print(f"Serving at {address}; Ctrl-C ends it", flush=True)
    page.block_thread()


class _Guard:
    """Answers at the addresses in `SERVED` alone.

    Browsers are told to load nothing from elsewhere, and to say nowhere where they were.
    """

    def __init__(self, app: Callable):
        self._app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        known = scope["type"] == "lifespan" or SERVED.fullmatch(scope["path"])
        app = self._app if known else PlainTextResponse("Not found", 404)
        with contextlib.suppress(ClientDisconnect):  # an upload that broke off
            await app(scope, receive, send_with_headers)


class _Upload(route_utils.GradioUploadFile):
    """An upload in a folder of its own, whose name nobody can guess; gone if it breaks off.

    Gradio names the folder by the content: equal files of two users would be one.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.sha.update(secrets.token_bytes())
        weakref.finalize(self, Path(self.file.name).unlink, missing_ok=True)


async def _refuse_download(url: str, cache_dir: str) -> str:
    """Instead of what fetches an address that is given in place of an uploaded file."""
    raise gr.Error("files are uploaded, not fetched", print_exception=False)


# Gradio has no setting for these two.
route_utils.GradioUploadFile = _Upload
processing_utils.async_ssrf_protected_download = _refuse_download


def _in_words(action: Callable, place: gr.HTML, outputs: Sequence) -> Callable:
    """The action; its errors appear as a sentence at `place`, and the rest stays as it is."""

    @functools.wraps(action)
    def careful(*arguments: Any) -> Any:
        try:
            return action(*arguments)
        except UserError as error:
            said = _note(str(error))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            said = _note("Something is wrong with this program; its log says what.")
        return [said if output is place else gr.skip() for output in outputs]

    return careful


def _keep(session: Session, recording: Path | None) -> None:
    """The session's recording is this one from now on; the one before it is removed."""
    if session.recording and session.recording != recording:
        session.recording.unlink(missing_ok=True)
    session.recording = recording


def _examples(start: Start) -> tuple[list[LabelledClip], Path]:
    """Six clips of each emotion that speech can be synthesised for, and a recording of others."""
    planned = emofilm_clips(["en"], 8)
    wanted = [clip for clip in planned if clip.label in start.emotions] or planned
    support, pieces, voices = [], [], Counter()
    with tempfile.TemporaryDirectory() as folder:
        for clip in wanted:
            samples, rate = render(clip, seed=0)
            path = Path(folder, Path(clip.path).name)
            soundfile.write(path, samples, rate)
            voices[clip.label] += 1
            if voices[clip.label] <= 6:
                support.append(read_clip_as(path, clip.label, start, speaker=clip.speaker))
            else:
                pieces += [read_clip(path), np.zeros(SAMPLE_RATE, np.float32)]
    # Below Gradio's folder, from which alone it serves files.
    target = tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])
    recording = Path(target, "synthetic_recording.wav")
    soundfile.write(recording, np.concatenate(pieces), SAMPLE_RATE)
    return support, recording


# ---- what is shown; all that users have named is escaped


def _note(text: str, good: bool = False) -> str:
    sentence = html.escape(f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}")
    return f'<div class="note{" good" * good}" role="status">{sentence}</div>'


def _hint(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


NO_CLIPS = _hint(
    "No clips yet. Choose an emotion, then drop five or more short clips of it, or record them; "
    "then the next emotion. Two emotions are the least."
)

NOT_ENROLLED = _hint("Give clips of two or more emotions, then press Enrol.")
NOT_RECOGNISED = _hint(
    f"Up to {CLIP_SECONDS:g} seconds are one clip; of a longer recording you get a timeline."
)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _clips_table(clips: Sequence[LabelledClip], start: Start, same_as: dict[str, str]) -> str:
    known = {name.casefold() for name in (*start.emotions, *start.fixed)}
    rows = []
    for label, count in sorted(Counter(clip.label for clip in clips).items()):
        speakers = {clip.speaker for clip in clips if clip.label == label} - {""}
        meaning = same_as.get(label, NEW)
        if meaning == NEW:
            meaning = "known" if label.casefold() in known else "new"
        cells = (label, meaning, str(count), str(len(speakers) or "not said"))
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in ("emotion", "means", "clips", "speakers"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    after = "Add others, or go on to step 2." if len(rows) > 1 else "Now clips of another emotion."
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{_hint(after)}"


def _enrolled(recogniser: Recogniser) -> str:
    estimate = recogniser.estimate
    low, high = estimate.interval
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "my.model")
        save(path, recogniser)
        model = _download("my.model", path.read_bytes(), "Save the model")
    said = f"Enrolled {', '.join(recogniser.classes)}."
    picture = ""
    if estimate.clips:
        said += (
            f" Leaving out each {estimate.left_out} in turn, {estimate.accuracy:.0%} of "
            f"{_count(estimate.clips, 'clip')} are recognised (95% interval {low:.0%} to "
            f"{high:.0%}; chance {estimate.chance:.0%})."
        )
        picture = _picture(
            draw_estimate(recogniser), "Labels against answers of the clips left out"
        )
    return "".join(
        [
            _note(said, good=True),
            *map(_note, recogniser.warnings),
            picture,
            f'<p class="downloads">{model}</p>',
            _hint("Now give a clip or a recording in step 3."),
        ]
    )


def _recognised(prediction: Prediction) -> str:
    labels = Counter()
    for segment in prediction.segments:
        labels[segment.label] += segment.end - segment.start
    picture = _picture(draw_timeline(prediction), "Timeline: emotions over the waveform")
    if prediction.seconds <= CLIP_SECONDS:
        segment, picture = prediction.segments[0], ""  # its probabilities say more
        best = prediction.classes[int(np.argmax(segment.probabilities))]
        unsure = f"{UNSURE}: most probably " if segment.label == UNSURE else ""
        headline = f"{unsure}{best}, with a probability of {segment.confidence:.0%}"
    elif labels:
        headline = "Heard " + ", ".join(
            f"{label} for {seconds:.0f} s" for label, seconds in labels.most_common()
        )
    else:
        headline = "No speech was found in this recording"
    files = []
    for name, written in FORMATS.items():
        text = io.StringIO(newline="")
        written.write([prediction], text)
        stem = Path(prediction.file).stem
        files.append(_download(stem + written.suffix, text.getvalue().encode(), name))
    return "".join(
        [
            _note(headline, good=True),
            *map(_note, prediction.warnings),
            picture,
            f'<p class="downloads">Save as {" ".join(files)}</p>',
        ]
    )


def _rows(prediction: Prediction) -> list[list[str]]:
    return [
        [
            _clock(segment.start),
            _clock(segment.end),
            segment.label,
            f"{segment.confidence:.0%}",
        ]
        for segment in prediction.segments
    ]


def _clock(seconds: float) -> str:
    """As the player and the timeline count, with tenths."""
    minutes, tenths = divmod(round(10 * seconds), 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def _picture(figure: Figure, description: str) -> str:
    data = base64.b64encode(png(figure)).decode()
    return f'<img class="picture" alt="{description}" src="data:image/png;base64,{data}">'


def _download(name: str, content: bytes, text: str) -> str:
    data = base64.b64encode(content).decode()
    return (
        f'<a download="{html.escape(name)}" href="data:application/octet-stream;base64,{data}">'
        f"{text}</a>"
    )


def main() -> None:
    """Serves until it is interrupted."""
    args = flags.FLAGS
    if not args.checkpoint:
        raise UserError("--checkpoint is missing; for example --checkpoint=runs/start")
    set_up_compilation()
    start = load_start(args.checkpoint)
    console.unwind_on_termination()  # so that the folder is removed
    with tempfile.TemporaryDirectory(prefix="fmaml_jax_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(make_page(start), args.host, args.port)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", "", "Folder of a finished run of experiments/start.cfg.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 for the network.")
    flags.DEFINE_integer("port", 7860, "Port to listen at.", 1, 65535)
    console.run(main)
