"""Takes the documents' pictures: a timeline, a report, and the web page, with synthetic speech.

    python -m experiments.pictures --address=http://127.0.0.1:7860

The page is one that `python -m fmaml_jax.serve` serves. It needs Playwright, and a Chromium.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from PIL import Image

from fmaml_jax.common import console
from fmaml_jax.recognition import enrol, load_start, predict
from fmaml_jax.recognition.pictures import draw_timeline, save_picture
from fmaml_jax.report import output
from fmaml_jax.web.examples import make_examples

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURES = Path(__file__).parent / "enrolment"
RUNS = Path(__file__).parent / "results" / "public.jsonl"


def main() -> None:
    """Takes all of them."""
    from playwright.sync_api import sync_playwright  # late: its flags are read where it is not

    args = flags.FLAGS
    out = Path(args.out)
    draw_example(out)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": args.width, "height": 900})
        page.set_default_timeout(300_000)
        with tempfile.TemporaryDirectory() as folder:
            output.report([str(RUNS)], Path(folder, "report"))
            page.goto(Path(folder, "report", "report.html").as_uri())
            page.screenshot(path=out / "report.png")
        page.goto(args.address)
        lead_through(page, out)
        browser.close()
    for name in ("timeline.png", "report.png", "page_segments.png", "web_page.png"):
        Image.open(out / name).quantize().save(out / name, optimize=True)


def draw_example(out: Path) -> None:
    """The timeline of a recording, in which what is least sure is left open."""
    start = load_start("descriptors")
    with tempfile.TemporaryDirectory() as folder:
        support, recording = make_examples(start, folder)
        prediction = predict(enrol(start, support), recording, abstain=0.3)
    save_picture(out / "timeline.png", draw_timeline(prediction))


def lead_through(page: "Page", out: Path) -> None:
    """Enrols, recognises, and labels some segments on the web page."""

    def press(name: str) -> None:
        page.get_by_role("button", name=name).click()

    press("No clips at hand?")
    page.get_by_text("Synthetic speech was added").wait_for()
    press("Enrol")
    page.get_by_text("Leaving out each").wait_for()
    press("Recognise")
    page.get_by_text("Heard ").wait_for()
    page.get_by_role("button", name="Play 0:").first.click()
    labels = page.locator("#segments select")
    for number in range(2):
        labels.nth(number).select_option(index=1 + number)
    page.wait_for_function("document.querySelector('#sound audio').paused == false")
    page.wait_for_timeout(3000)  # until nothing is shown as being done
    page.locator("#segments").screenshot(path=out / "page_segments.png")
    page.screenshot(path=out / "web_page.png", full_page=True)


def define_flags() -> None:
    flags.DEFINE_string("address", "http://127.0.0.1:7860", "Where the page is served.")
    flags.DEFINE_string("chromium", "/usr/bin/chromium", "The browser.")
    flags.DEFINE_integer("width", 960, "Of its window, in pixels.", 1)
    flags.DEFINE_string("out", str(PICTURES), "Folder of the pictures.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
