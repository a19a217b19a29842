"""Which speakers are women and which men, where a corpus says so itself."""

SEXES = ("female", "male")

_SPEAKERS = {  # women, then men, by the corpora's own tables; that of CREMA-D is not in its audio
    "emodb": (("08", "09", "13", "14", "16"), ("03", "10", "11", "12", "15")),
    "emovo": (("f1", "f2", "f3"), ("m1", "m2", "m3")),
    "ravdess": tuple(tuple(f"{n:02}" for n in range(first, 25, 2)) for first in (2, 1)),
}


def sex_of(corpus: str, speaker: str) -> str:
    """One of `SEXES`, or "" where it is not known."""
    groups = zip(SEXES, _SPEAKERS.get(corpus, ()), strict=False)
    return next((sex for sex, speakers in groups if speaker in speakers), "")
