"""What the documents show is what the code does."""

from experiments import architecture


def test_the_picture_of_the_architecture_is_of_this_code():
    shown = architecture.describe(architecture.read_imports())
    assert shown.encode() in architecture.PICTURE.read_bytes(), (
        "draw it again: python -m experiments.architecture"
    )


def test_arrows_of_the_picture_point_down_and_find_room(tmp_path):
    architecture.draw(architecture.read_imports(), tmp_path / "picture.png")
