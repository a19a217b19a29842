"""Synthesises audio that the project can be tried with: speech, its neutral class, and silence.

    python -m data_prep.synthesise --kind=emofilm --out_dir=data/emofilm_synthetic

writes a folder of 16-bit WAV files (and the table that describes them) of one `--kind`:

    emofilm    a corpus shaped like EmoFilm (Parada-Cabaleiro et al., "Categorical vs dimensional
               perception of Italian emotional speech", Interspeech 2018): the same file names and
               the same columns in its list of speakers
    neutral    unemotional speech for a corpus that has none, with a manifest.csv
    silence    noise in which nobody speaks, with a manifest.csv

The speech is eSpeak NG's, which is GPL-3 and loaded by `fmaml_jax.synthesis.espeak` alone.
Emotions differ in prosody and voice quality, speakers in voice; results on this speech mean nothing
about people's. On one machine a clip depends on its own file name and `--seed` alone, to the byte:
not on the other clips, nor on the number of processes.
"""

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.synthesis.sentences import EMOFILM_LANGUAGES

CLIPS_PER_CLASS = {"emofilm": 40, "neutral": 100, "silence": 300}


def main() -> None:
    """Makes the folder of the flags."""
    args = flags.FLAGS
    count = args.clips_per_class or CLIPS_PER_CLASS[args.kind]

    from data_prep.synthetic import synthesise  # late, so that --help does not wait for it

    seconds = synthesise(
        *(args.kind, args.out_dir, list(dict.fromkeys(args.languages)), count, args.seed),
        own_ways=args.own_ways,
    )
    print(f"{args.out_dir}: {args.kind}, {seconds:.2f} s a clip on average")


def define_flags() -> None:
    """What to synthesise, and where."""
    flags.DEFINE_enum("kind", None, list(CLIPS_PER_CLASS), "What to synthesise.", required=True)
    flags.DEFINE_string("out_dir", None, "Folder to make; new or empty.", required=True)
    flags.DEFINE_integer("seed", 0, "Same seed, same bytes.", lower_bound=0)
    flags.DEFINE_integer(
        "clips_per_class",
        None,
        "Clips per emotion and language (default 40), neutral clips per language (100), or "
        "clips of silence (300).",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "languages", list(EMOFILM_LANGUAGES), "ISO 639 codes, comma-separated; not for silence."
    )
    flags.DEFINE_bool(
        "own_ways",
        False,
        "Italian and Spanish express some emotions of emofilm in ways of their own: what sounds "
        "happy in English is disgust there, and in Italian what sounds angry is fear.",
    )


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(
        main,
        example="--kind=silence --out_dir=data/silence",
        required=("kind", "out_dir"),
    )


if __name__ == "__main__":
    command()
