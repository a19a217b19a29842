"""Names of every script in pictures: no boxes, letters joined and in their order."""

import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fmaml_jax.common import fonts
from fmaml_jax.common.fonts import lettered
from fmaml_jax.common.pictures import draw_matrix

ANGER = ("غضب", "क्रोध", "রাগ", "ቁጣ", "ความโกรธ", "כעס", "гнев", "θυμός", "злость złość")


def ink(name):
    """Which columns of pixels a name has ink in, once drawn."""
    figure = Figure((4, 1), dpi=100)
    [drawn], families = lettered([name])
    figure.text(0.05, 0.3, drawn, fontfamily=families, fontsize=24)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return (np.asarray(canvas.buffer_rgba())[..., 0] < 128).sum(axis=0)


def width(name):
    columns = np.flatnonzero(ink(name))
    return columns[-1] - columns[0] + 1


def test_every_letter_is_drawn():
    axes = Figure().add_subplot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns of what no font has
        draw_matrix(axes, np.eye(len(ANGER)), ANGER, ANGER)
        axes.figure.draw_without_rendering()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ANGER)


@pytest.mark.parametrize("name", ["क्र", "بب"])
def test_letters_are_joined(name):
    # Apart they would be as wide as each alone: two letters, or a letter, a virama and another.
    assert width(name) < sum(map(width, name.replace("\u094d", "")))


def test_arabic_runs_from_right_to_left():
    # Alef is one upright stroke; seen, unjoined after it, is wide and has three teeth.
    assert np.flatnonzero(ink("اس"))[-1] - ink("اس").argmax() < 5


def test_letters_that_no_font_has_become_latin_ones_and_it_is_said(monkeypatch, capsys):
    monkeypatch.setattr(fonts, "_fonts", list)
    fonts._transliterated.cache_clear()
    for _ in range(2):
        assert lettered(["怒り\n1", "żal", "\ue000"])[0] == ["Nuri 1", "żal", "\\ue000"]
    noted = capsys.readouterr().err.splitlines()
    assert len(noted) == 2
    assert noted[0].startswith("note: pictures say Nuri 1 for 怒り 1, since no font here has its")
