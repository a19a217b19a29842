"""A recogniser, and what speakers were heard to be like, as text."""

from collections.abc import Sequence

from fmaml_jax.common.text import one_line, text_table
from fmaml_jax.recognition.recogniser import Recogniser
from fmaml_jax.recognition.speakers import shares
from fmaml_jax.recognition.timeline import UNSURE, Prediction


def describe(recogniser: Recogniser) -> str:
    """What a user should know before using the recogniser, as text."""
    estimate = recogniser.estimate
    answers = [one_line(name) for name in recogniser.classes]
    classes = [
        (name, str(count or "none"), meaning)
        for name, count, meaning in zip(
            answers,
            recogniser.counts,
            (own or "a new class" for own in recogniser.known_as),
            strict=True,
        )
    ]
    confusion = [
        (label, *map(str, row))
        for label, row in zip(answers, estimate.confusion.tolist(), strict=False)
    ]
    low, high = estimate.interval
    estimated = (
        [
            f"Leaving out each {estimate.left_out} in turn: {estimate.uar:.0%} of {estimate.clips} "
            f"clips are right, as a mean over the classes (UAR; 95% interval {low:.0%} to "
            f"{high:.0%}). One answer for all clips would give {estimate.chance:.0%}.",
            "",
            "Each row is a label, each column an answer:",
            text_table([("", *answers), *confusion]),
            "",
        ]
        if estimate.clips
        else []
    )
    return "\n".join(
        [
            text_table([("class", "clips", "starts as"), *classes]),
            "",
            *estimated,
            *(f"Warning: {one_line(warning)}." for warning in recogniser.warnings),
        ]
    )


def describe_speakers(predictions: Sequence[Prediction]) -> str:
    """How long each speaker of each recording speaks, and which share of that in which label."""
    rows = []
    for prediction in predictions:
        labels = (*prediction.classes, UNSURE)
        for speaker, own in shares(prediction).items():
            seconds = sum(own.values())
            parts = (f"{own[label] / seconds:.0%}" if label in own else "" for label in labels)
            rows.append((one_line(prediction.file), one_line(speaker), f"{seconds:.1f}", *parts))
    head = ("file", "speaker", "seconds", *map(one_line, (*predictions[0].classes, UNSURE)))
    return text_table([head, *rows])
