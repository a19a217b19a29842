"""The classes of a recogniser: a user's labels, and what each is to the start."""

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import name_key, require_name
from fmaml_jax.recognition.checkpoint import Start

MOST_CLASSES = 100
"""Of a recogniser; an emotion more is told apart from all others by a handful of clips each."""
SILENCE = "silence"
"""The fixed class that is no speech."""
_WORDS = {
    "neutral": """
        neu neut neutral neutrale neutraler neutralt neutrally normal unemotional no_emotion
        neutre neutra neutro neutru neutră neŭtrala neutraal nøytral neutraali neutraalne
        hlutlaus neitrāls neitrāla neutralus neutrali obojętna obojętne obojętnie obojętność
        obojętny neutralna neutralne neutralnie neutralność neutralny neutrální neutrálny
        nevtralen nevtralna nevtralno neutralan neutralno semleges asnjanës niwtral neodrach
        nötr tarafsız neytral netral berkecuali trung_tính trung_lập неутрален неутрална
        неутрално неутралан нейтрален нейтральная нейтрально нейтральное нейтральность
        нейтральный нейтральний нейтральны бейтарап ουδέτερη ουδέτερο ουδέτερος չեզոք
        ნეიტრალური ניטרלי נייטרלי محايد حيادي خنثی غیر_جانبدار ገለልተኛ तटस्थ নিরপেক্ষ நடுநிலை
        తటస్థ ತಟಸ್ಥ നിഷ്പക്ഷ તટસ્થ เป็นกลาง 中性 中立 平静 平常 ニュートラル 중립 중성
    """,  # noqa: RUF001
    SILENCE: """
        sil silence silences silent silencieux silenci silencio silenzio silêncio stille
        schweigen stilte stilhed stillhet tystnad þögn hiljaisuus vaikus klusums tyla cisza
        ticho tišina liniște tăcere csend heshtje tawelwch ciúnas tost isiltasuna sessizlik
        sükut sukunat kimya ukimya diam kesunyian keheningan senyap katahimikan im_lặng
        тишина тиша цішыня тыныштық σιωπή ησυχία լռություն დუმილი სიჩუმე שקט שתיקה صمت سكوت
        خاموشی ዝምታ मौन ख़ामोशी शांतता নীরবতা மௌனம் నిశ్శబ్దం ಮೌನ നിശബ്ദത મૌન ความเงียบ 静音 安静
        寂静 沉默 静寂 沈黙 無音 침묵 정적 무음
    """,
}
"""Usual words for the classes that need no clips, in languages of the world."""


class Naming(NamedTuple):
    """The classes by kind, each kind in alphabetical order or, the last, in the start's.

    Attributes:
        emotions: labels that mean no fixed class; at least one.
        supported: labels that mean fixed classes and have clips all the same.
        free: the fixed classes without clips.
        known_as: the class of the start that each label begins as; "" for a new one.
        warnings: sentences.
    """

    emotions: tuple[str, ...]
    supported: tuple[str, ...]
    free: tuple[str, ...]
    known_as: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def enrolled(self) -> tuple[str, ...]:
        """The classes that have clips."""
        return self.emotions + self.supported

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, in the order of the recogniser's outputs."""
        return self.enrolled + self.free


def name_classes(
    start: Start, labels: set[str], same_as: Mapping[str, str], without: Sequence[str]
) -> Naming:
    """What classes a recogniser has, and as what of the start each begins.

    Args:
        start: the meta-trained start.
        labels: of the clips.
        same_as: for labels in the user's words, the class of the start that each means.
        without: fixed classes that are not to be answered.

    Raises:
        UserError: there is no emotion among the labels, or one label alone that is new or that
            has nothing to be told from, or more than `MOST_CLASSES`; or `same_as` names a label
            that no clip has, or a class that the start does not know, or `without` one that is not
            fixed or has clips; or a new label is a usual word for a fixed class that is answered
            too.
    """
    known_as = _known_as(start, labels, same_as)
    emotions = sorted(label for label, own in known_as.items() if own not in start.fixed)
    supported = sorted(labels - set(emotions))
    if not emotions:
        raise UserError(
            f"all clips are of {', '.join(map(repr, supported))}, and there is nothing to tell "
            "apart; label clips of an emotion too"
        )
    free = _free(start, known_as, without)
    if len(labels) == 1 and not (free and known_as[emotions[0]]):
        known = f", or say what it means (--same_as={emotions[0]}=...)" if free else ""
        raise UserError(
            f"all clips are of {emotions[0]!r}, and there is nothing to tell it from; label clips "
            f"of another class too{known}"
        )
    if len(labels) + len(free) > MOST_CLASSES:
        raise UserError(
            f"the clips have {len(labels):,} labels, and with {len(free)} classes that need no "
            f"clips at most {MOST_CLASSES} are told apart; give what is alike one label"
        )
    _refuse_synonyms(known_as, free)
    warnings = _unnamed(start, known_as, free)
    known_as |= {name: name for name in free}
    return Naming(tuple(emotions), tuple(supported), free, known_as, warnings)


def _known_as(start: Start, labels: set[str], same_as: Mapping[str, str]) -> dict[str, str]:
    """Which class of the start each label begins as; "" for a new one."""
    classes = {name_key(name): name for name in (*start.emotions, *start.fixed)}
    spelled = {name_key(label): label for label in labels}
    known = {label: classes.get(name_key(label), "") for label in labels}
    for label, meaning in same_as.items():
        require_name(label, "label")
        require_name(meaning, "class")
        if name_key(label) not in spelled:
            raise UserError(
                f"--same_as={label}={meaning}, but no clip is labelled {label!r}; the labels are "
                f"{', '.join(sorted(labels))}"
            )
        if name_key(meaning) not in classes:
            raise UserError(
                f"--same_as={label}={meaning}, but the start does not know {meaning!r}; it "
                f"knows {', '.join(classes.values())}"
            )
        known[spelled[name_key(label)]] = classes[name_key(meaning)]
    return known


def _free(start: Start, known_as: Mapping[str, str], without: Sequence[str]) -> tuple[str, ...]:
    """The fixed classes that no label means or is called as, but those `without`."""
    taken = {*known_as.values(), *map(name_key, known_as)}
    free = [name for name in start.fixed if not {name, name_key(name)} & taken]
    if foreign := [name for name in without if name_key(name) not in map(name_key, free)]:
        raise UserError(
            f"--without={','.join(foreign)} cannot be left out; only "
            f"{' and '.join(free) or 'a class without clips'} can"
        )
    return tuple(name for name in free if name_key(name) not in map(name_key, without))


def _refuse_synonyms(known_as: Mapping[str, str], free: Sequence[str]) -> None:
    """Of two classes that are the same in two languages each would be answered half the time."""
    for name in free:
        words = {name_key(word) for word in _WORDS.get(name, "").split()}
        for label in sorted(known_as):
            if not known_as[label] and name_key(label).replace(" ", "_") in words:
                raise UserError(
                    f"{label!r} seems to mean {name}, which is answered without clips too; say so "
                    f"(--same_as={label}={name}; on the page: It means), or leave the other out "
                    f"(--without={name})"
                )


def _unnamed(start: Start, known_as: Mapping[str, str], free: Sequence[str]) -> tuple[str, ...]:
    """What to say of new classes, where the start knows emotions that no class begins as."""
    new = sorted(label for label, own in known_as.items() if not own)
    left = [emotion for emotion in start.emotions if emotion not in known_as.values()]
    if not new or not left:
        return ()
    flag = shlex.quote(f"--same_as={','.join(f'{label}=?' for label in new)}")
    meanings = left + [name for name in free if name != SILENCE]
    return (
        f"the start does not know {', '.join(map(repr, new))}; a label that means "
        f"{', '.join(meanings[:-1])}{' or ' * bool(meanings[1:])}{meanings[-1]} is recognised "
        f"better if you say so: add {flag} with one of these words for each ?, and take out the "
        "labels that mean none of them (on the page: It means)",
    )
