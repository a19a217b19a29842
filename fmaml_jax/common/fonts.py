"""Names of any script in pictures: fonts that have their letters, and Latin ones where none has."""

import functools
import logging
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import matplotlib
from anyascii import anyascii
from matplotlib import font_manager
from matplotlib.font_manager import FontEntry, FontProperties
from tqdm import tqdm

from fmaml_jax.common.text import one_line

PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
"""Packages of Noto's fonts; the second, of 33 MB, is for who wants Chinese, Japanese and Korean."""

# It says so where a family has no regular weight, as the CJK one.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def lettered(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Texts as they can be drawn, and the font families to draw them with.

    Matplotlib looks for each letter in one family after the other, shapes what it finds and sets
    it from right to left where it is due. Fonts of the machine serve where the packages have none.
    What no font has becomes Latin letters, and a line on standard error says so.
    """
    texts = [one_line(text) for text in texts]
    missing = set(map(ord, "".join(texts))) - _letters(font_manager.findfont(FontProperties()))
    families = dict.fromkeys(matplotlib.rcParams["font.family"])
    for font in _fonts() if missing else ():
        if missing & _letters(font.fname):
            families[font.name] = None
            missing -= _letters(font.fname)
    absent = frozenset(map(chr, missing))
    return [_transliterated(text, absent) for text in texts], list(families)


@functools.cache
def _fonts() -> list[FontEntry]:
    """Upright fonts of a book's weight: those of the packages, then those of the machine."""
    manager = font_manager.fontManager
    machine = sorted(
        (font for font in manager.ttflist if font.weight in range(300, 501)),
        key=lambda font: font.fname,
    )
    before = len(manager.ttflist)
    for spec in filter(None, map(find_spec, PACKAGES)):
        for file in sorted(Path(str(spec.origin)).parent.glob("*.tt[cf]")):
            manager.addfont(file)
    fonts = [*manager.ttflist[before:], *machine]
    # Matplotlib's last resort has a box for every letter.
    return [f for f in fonts if f.style == "normal" and "LastResort" not in f.fname]


@functools.cache
def _letters(file: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(file).get_charmap())


@functools.cache
def _transliterated(text: str, missing: frozenset[str]) -> str:
    if missing.isdisjoint(text):
        return text
    latin = "".join(
        (anyascii(letter) or ascii(letter)[1:-1]) if letter in missing else letter
        for letter in text
    )
    tqdm.write(
        f"note: pictures say {latin} for {text}, since no font here has its letters; "
        "`pip install manimgx-fonts-cjk` brings Chinese, Japanese and Korean ones",
        file=sys.stderr,
    )
    return latin
