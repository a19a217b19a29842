"""What the studies share: clips of a prepared corpus as a user labels them, and their sound."""

from pathlib import Path

from fmaml_jax.data.dataset import Dataset
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.support import LabelledClip


def emotions_of(corpus: Dataset, start: Start) -> list[str]:
    """The corpus's labels but those of the start's fixed classes, in alphabetical order."""
    return sorted(set(corpus.labels.tolist()) - set(start.fixed))


def labelled(corpus: Dataset, clip: int, label: str = "", speaker: str = "") -> LabelledClip:
    """A clip of the corpus under a label, by default its own; by nobody who is named."""
    name = str(corpus.names[clip])
    own = label or str(corpus.labels[clip])
    return LabelledClip(name, own, speaker, corpus.features[clip], name, ())


def sound_files(audio: Path) -> dict[str, Path]:
    """The files below a folder by the names that their clips have in a prepared corpus."""
    return {str(path.relative_to(audio).with_suffix("")): path for path in audio.rglob("*.*")}
