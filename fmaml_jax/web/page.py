"""The page: its parts in three steps, and what changes in them when something is done."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import gradio as gr
from anyio import CapacityLimiter, sleep, to_thread
from gradio.themes import Default

from fmaml_jax.audio.filterbank import EncoderConfig
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.pictures import GREEN, VERMILION
from fmaml_jax.common.processes import cores
from fmaml_jax.common.text import name_key, one_spelling
from fmaml_jax.recognition import Prediction, Recogniser, save
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.support import describe_findings
from fmaml_jax.web import render, session
from fmaml_jax.web.guard import log
from fmaml_jax.web.session import (
    LONGEST_RECORDING,
    NEW,
    LeftError,
    Session,
    Sessions,
    Turns,
    Voices,
)

AT_ONCE = min(4, cores())
"""Users whose clips or recordings are worked on at the same time."""
WAIT = 5.0
"""Seconds for which an action waits until the page listens for its answer."""
PROGRESS = gr.Progress()
THEME = Default(
    primary_hue="blue",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    block_info_text_color="*neutral_500",
    button_primary_background_fill="*primary_600",
)


def _beside(name: str) -> str:
    """The text of a file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


STYLE = Template(_beside("page.css")).substitute(vermilion=VERMILION, green=GREEN)
HEAD = f"<script>\n{_beside('page.js')}</script>"
SEGMENTS = _beside("segments.js")
"""Runs when the table of segments is there, which it calls `element`."""
CHOSEN = "() => [Number(document.querySelector('#segments .chosen')?.name ?? -1)]"
LABELLED = """(...given) => [...given.slice(0, -1), Object.fromEntries(
  [...document.querySelectorAll("#segments [data-touched]")].map((one) => [one.name, one.value])
)]"""

Parts = dict[str, Any]
"""What can change, by name: components, to which Gradio adds their events when it is loaded."""
Changes = dict[str, Any]
"""The new content of parts, or `gr.update`, by the parts' names."""


class Visit(NamedTuple):
    """What an action has beside its inputs.

    Attributes:
        session: the visitor's.
        start: what is enrolled in.
        folder: where files can be served from.
        progress: shows the share of the action that is done.
        pass_on: lets other visitors work who had less, see `Turns`.
    """

    session: Session
    start: Start
    folder: str
    progress: gr.Progress
    pass_on: Callable[[], None]


def make_page(start: Start, folder: str, sessions: Sessions, turns: Turns) -> gr.Blocks:
    """The page, whose `sessions` enrol in `start` by turns; it makes files in `folder`."""
    with gr.Blocks(title="fmaml_jax") as page:
        gr.Markdown(
            "# Label a few clips, recognise emotions\n"
            "In any language, with a handful of clips of each emotion. "
            f"{' and '.join(start.fixed).capitalize()} need none. Everything stays on the machine "
            "that serves this page, and is forgotten when you close it."
        )
        _wire(page, _step_1(start) | _step_2(start) | _step_3(), start, folder, sessions, turns)
    page.max_threads = 1000  # actions that wait are not in its queue, but for their turns
    return page.queue(default_concurrency_limit=None)


# ---- the parts of each step


def _step_1(start: Start) -> Parts:
    gr.Markdown("## 1. Label clips")
    with gr.Row():
        label = gr.Dropdown(
            [*start.emotions, *start.fixed],
            value=None,
            allow_custom_value=True,
            label="Emotion",
            info="Choose one that is known already, or type any name.",
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
    said = gr.HTML(render.NO_CLIPS)
    table = gr.HTML(visible=False)
    with gr.Row():
        chosen = gr.Dropdown(
            [], multiselect=True, label="Take clips out again", visible=False, scale=3
        )
        out = gr.Button("Take out", visible=False, scale=1, elem_id="out")
    examples = gr.Button("No clips at hand? Try with synthetic speech")
    return {
        **{"label": label, "meaning": meaning, "speaker": speaker},
        **{"files": files, "microphone": microphone, "said": said, "table": table},
        **{"chosen": chosen, "out": out, "examples": examples},
    }


def _step_2(start: Start) -> Parts:
    gr.Markdown("## 2. Enrol")
    answered = gr.CheckboxGroup(
        list(start.fixed),
        value=list(start.fixed),
        label="Answers that need no clips",
        info="Untick what your recordings do not hold.",
    )
    by_ear = isinstance(start.feature_config, EncoderConfig)
    speakers = gr.Radio(
        [
            ("not compared", ""),
            ("one in each recording", "file"),
            *[("several, to be told apart by ear", "found")] * by_ear,
        ],
        value="",
        label="Voices",
        info="A voice adds something to all of its clips, which can be taken out. That helps where "
        "somebody speaks in five segments or more, and needs names in step 1.",
    )
    enrol = gr.Button("Enrol", variant="primary")
    with gr.Accordion("Or load a model that was saved earlier", open=False):
        model = gr.File(label="Model file", file_count="single", height=120, elem_id="model")
    enrolled = gr.HTML(render.NOT_ENROLLED)
    return {
        **{"answered": answered, "speakers": speakers, "enrol": enrol},
        **{"model": model, "enrolled": enrolled},
    }


def _step_3() -> Parts:
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
    recognise = gr.Button("Recognise", variant="primary")
    # Its height has room for the progress that is shown in its place.
    recognised = gr.HTML(render.NOT_RECOGNISED, min_height=90, elem_id="recognised")
    chances = gr.Label(label="Probabilities", visible=False, show_heading=False)
    segments = gr.HTML(visible=False, js_on_load=SEGMENTS, elem_id="segments")
    sound = gr.HTML(
        "",
        html_template='<audio controls src="${value}"></audio>',
        js_on_load="watch('value', () => element.querySelector('audio').play().catch(() => {}))",
        elem_id="sound",
    )
    learned = gr.HTML(visible=False, elem_id="learned")
    again = gr.Button("Learn from what you labelled", visible=False)
    given = gr.JSON(visible=False)  # of the table: which segment is chosen, or what is labelled
    return {
        **{"recording": recording, "abstain": abstain, "recognise": recognise},
        **{"recognised": recognised, "chances": chances, "segments": segments, "sound": sound},
        **{"learned": learned, "again": again, "given": given},
    }


# ---- what is done, and what changes with it


def _add(
    visit: Visit,
    label: str | None,
    meaning: str,
    speaker: str | None,
    files: str | Sequence[str] | None,
) -> Changes:
    paths = [files] if isinstance(files, str) else files or []
    added, errors = session.add_clips(
        visit.session,
        visit.start,
        [*map(Path, paths)],
        label or "",
        meaning,
        speaker or "",
        visit.pass_on,
    )
    said = [*map(render.note, errors)]
    if added:
        said.insert(
            0, render.note(f"{render.count(len(added), 'clip')} of {label} added", good=True)
        )
        said += map(render.note, describe_findings(added, visit.start.fixed))
    return {"files": None, "microphone": None} | _clips(visit, "".join(said))


def _show_meaning(visit: Visit, label: str | None) -> Changes:
    label = name_key(label or "")
    known = map(name_key, (*visit.start.emotions, *visit.start.fixed))
    return {
        "meaning": gr.update(
            visible=bool(label) and label not in known,
            value=visit.session.same_as.get(label, NEW),
        )
    }


def _set_meaning(visit: Visit, label: str, meaning: str) -> Changes:
    session.set_meaning(visit.session, label, meaning)
    return _clips(visit)


def _add_examples(visit: Visit) -> Changes:
    recording = session.add_examples(visit.session, visit.start, visit.folder)
    said = render.note(
        "Synthetic speech was added, to try the page with; it says nothing about how well "
        "people are recognised. A recording is in step 3.",
        good=True,
    )
    return _clips(visit, said) | {"recording": str(recording)}


def _take_out(visit: Visit, chosen: Sequence[str]) -> Changes:
    session.take_out(visit.session, chosen)
    return _clips(visit)


def _clips(visit: Visit, said: str = "") -> Changes:
    """What changes in step 1 with the clips."""
    clips, start = visit.session.clips, visit.start
    counts = Counter(clip.label for clip in clips)
    known = [*start.emotions, *start.fixed]
    return {
        "said": said if said or clips else render.NO_CLIPS,
        "table": gr.update(
            value=render.clips_table(clips, start, visit.session.same_as), visible=bool(clips)
        ),
        "chosen": gr.update(
            choices=[
                *((f"all of {label}", f"all {label}") for label in counts),
                *((f"{clip.label}: {clip.name}", clip.digest) for clip in clips),
            ],
            value=[],
            visible=bool(clips),
        ),
        "out": gr.update(visible=bool(clips)),
        "examples": gr.update(visible=not clips),
        "label": gr.update(choices=[*known, *(label for label in counts if label not in known)]),
    } | ({} if visit.session.recogniser else {"enrolled": render.NOT_ENROLLED})


def _learn(visit: Visit, answered: Sequence[str], speakers: Voices) -> Changes:
    recogniser = session.learn(visit.session, visit.start, answered, bool(speakers))
    return _enrolled(recogniser) | _not_recognised()


def _take_model(visit: Visit, path: str | None) -> Changes:
    return _enrolled(session.take_model(visit.session, visit.start, path)) | _not_recognised()


def _enrolled(recogniser: Recogniser) -> Changes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "my.model")
        save(recogniser, path)
        return {"enrolled": render.enrolled(recogniser, path.read_bytes())}


def _hold(visit: Visit, path: str | None) -> Changes:
    session.keep_recording(visit.session, Path(path) if path else None)
    return _not_recognised()


def _not_recognised() -> Changes:
    """Step 3 without a result, where the last one was of another recording or model."""
    hidden = gr.update(visible=False)
    parts = ("chances", "segments", "learned", "again")
    return {"recognised": render.NOT_RECOGNISED, "sound": "", **dict.fromkeys(parts, hidden)}


def _recognise(visit: Visit, path: str | None, abstain: float, speakers: Voices) -> Changes:
    recogniser = visit.session.recogniser
    if recogniser and bool(speakers) != (recogniser.means is not None):
        raise UserError(
            "this was enrolled with another choice of voices; press Enrol, or choose as before"
        )
    return _recognised(visit, _hear(visit, path, abstain, speakers))


def _hear(visit: Visit, path: str | None, abstain: float, speakers: Voices) -> Prediction:
    def report(share: float) -> None:
        visit.progress(share, "Listening")
        visit.pass_on()

    return session.recognise(visit.session, path, abstain, report, speakers)


def _recognised(visit: Visit, found: Prediction) -> Changes:
    is_clip = render.is_clip(found)
    chances = found.segments[0].probabilities if is_clip else ()
    some = bool(found.segments)
    return {
        "recognised": render.recognised(found),
        "chances": gr.update(
            value=dict(zip(found.classes, chances, strict=False)), visible=is_clip
        ),
        "segments": gr.update(value=_segments(visit, found), visible=some),
        "sound": "",
        "learned": gr.update(value=render.LABEL, visible=some),
        "again": gr.update(visible=some),
    }


def _segments(visit: Visit, found: Prediction) -> str:
    """The table, with what the visitor has said."""
    said = [
        next((clip.label for clip in session.corrections(visit.session, segment)), "")
        for segment in found.segments
    ]
    clips = visit.session.clips
    labels = one_spelling([*found.classes, *(clip.label for clip in clips), *visit.start.emotions])
    return render.segments(found, said, [*dict.fromkeys(labels)])


def _play(visit: Visit, number: int) -> Changes:
    return {"sound": render.sound(session.excerpt(visit.session, number), number)}


def _correct(visit: Visit, labels: Mapping[str, str]) -> Changes:
    session.correct(visit.session, visit.start, labels, visit.pass_on)
    return {"learned": render.LABEL} | _clips(visit)


def _learn_again(
    visit: Visit,
    answered: Sequence[str],
    speakers: Voices,
    abstain: float,
    labels: Mapping[str, str],
) -> Changes:
    """Enrols with the segments that were labelled, and recognises the recording anew."""
    visitor = visit.session
    before, was, path = visitor.recogniser, visitor.heard, visitor.recording
    session.correct(visitor, visit.start, labels, visit.pass_on)
    after = session.learn(visitor, visit.start, answered, bool(speakers))
    now = _hear(visit, str(path) if path else None, abstain, speakers)
    changes = _clips(visit) | _enrolled(after) | _recognised(visit, now)
    if before and was:
        changes["learned"] = gr.update(value=render.learned(before, after, was, now), visible=True)
    return changes


# ---- when it is done

CLIPS = ["said", "table", "chosen", "out", "examples", "label", "enrolled"]
ADDED = ["files", "microphone", *CLIPS]
RESULT = ["recognised", "chances", "segments", "sound", "learned", "again"]
ENROLLED = ["enrolled", *RESULT]


def _wire(
    page: gr.Blocks,
    parts: Parts,
    start: Start,
    folder: str,
    sessions: Sessions,
    turns: Turns,
) -> None:
    """Has the actions done when something happens to the parts."""
    threads = CapacityLimiter(1000)  # of their own: most of them wait for their turn

    def when(
        event: Callable,
        action: Callable[..., Changes],
        inputs: Sequence[str],
        outputs: Sequence[str],
        place: str,
        works: bool = True,
        **options: Any,
    ) -> None:
        """What `works` takes turns with the other visitors; the rest is done at once.

        An error is a sentence at `place`, where progress is shown too; the rest stays.
        """

        def changes(visitor: Session, progress: gr.Progress, values: Sequence[Any]) -> Changes:
            turn = turns.turn(visitor) if works else nullcontext(lambda: None)
            with turn as pass_on:
                return action(Visit(visitor, start, folder, progress, pass_on), *values)

        async def act(request: gr.Request, progress: gr.Progress = PROGRESS, *values: Any) -> dict:
            visitor = sessions.find(request.session_hash)
            try:
                if visitor is None or not await _is_heard(visitor):
                    raise LeftError
                changed = await to_thread.run_sync(
                    changes, visitor, progress, values, limiter=threads
                )
            except UserError as error:
                changed = {place: render.note(str(error))}
            except LeftError:
                changed = {place: gr.skip()}  # to nobody
            except Exception as error:
                log(error)
                said = "Something is wrong with this program; its log says where."
                changed = {place: render.note(said)}
            return {parts[name]: change for name, change in changed.items()}

        event(
            act,
            [parts[name] for name in inputs],
            [parts[name] for name in outputs],
            api_visibility="private",
            **{"show_progress_on": parts[place]} | options,
        )

    light: dict[str, Any] = {"works": False}
    hidden: dict[str, Any] = {"show_progress": "hidden", "works": False}
    naming = ["label", "meaning", "speaker"]
    when(parts["files"].upload, _add, [*naming, "files"], ADDED, "said")
    when(parts["microphone"].stop_recording, _add, [*naming, "microphone"], ADDED, "said")
    when(parts["label"].change, _show_meaning, ["label"], ["meaning", "said"], "said", **hidden)
    when(parts["meaning"].input, _set_meaning, ["label", "meaning"], CLIPS, "said", **light)
    when(parts["examples"].click, _add_examples, [], [*CLIPS, "recording"], "said")
    when(parts["out"].click, _take_out, ["chosen"], CLIPS, "said", **light)
    when(parts["enrol"].click, _learn, ["answered", "speakers"], ENROLLED, "enrolled")
    when(parts["model"].upload, _take_model, ["model"], ENROLLED, "enrolled")
    when(parts["recording"].change, _hold, ["recording"], RESULT, "recognised", **hidden)
    everywhere: dict[str, Any] = {"show_progress_on": [parts[name] for name in RESULT[:3]]}
    heard = ["recording", "abstain", "speakers"]
    when(parts["recognise"].click, _recognise, heard, RESULT, "recognised", **everywhere)
    aside: dict[str, Any] = {"show_progress": "hidden"}
    when(
        parts["segments"].select,
        _play,
        ["given"],
        ["sound", "learned"],
        "learned",
        js=CHOSEN,
        **aside,
    )
    kept: dict[str, Any] = {"js": LABELLED, "trigger_mode": "always_last"}
    when(
        parts["segments"].input,
        _correct,
        ["given"],
        [*CLIPS, "learned"],
        "learned",
        **kept,
        **aside,
    )
    choices = ["answered", "speakers", "abstain", "given"]
    changed = [*dict.fromkeys([*CLIPS, *ENROLLED])]
    when(parts["again"].click, _learn_again, choices, changed, "learned", js=LABELLED)
    page.unload(lambda: None)  # that there is such an event makes the page keep a connection


async def _is_heard(visitor: Session) -> bool:
    """Whether the page listens for the answer, as it does right after it has asked."""
    for _ in range(round(WAIT / 0.05)):
        if visitor.listening:
            return True
        await sleep(0.05)
    return False
