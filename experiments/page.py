"""Takes the documents' pictures of the web page, with synthetic speech.

    python -m experiments.page --address=http://127.0.0.1:7860

The page is one that `python -m fmaml_jax.serve` serves. It needs Playwright, and a Chromium.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from PIL import Image

from fmaml_jax.common import console

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURES = Path(__file__).parent / "enrolment"


def main() -> None:
    """Enrols, recognises, labels some segments, and takes the pictures."""
    from playwright.sync_api import sync_playwright  # late: its flags are read where it is not

    args = flags.FLAGS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": args.width, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(args.address)
        take(page, Path(args.out))
        browser.close()


def take(page: "Page", out: Path) -> None:
    """Leads through the page."""

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
    for name in ("page_segments.png", "web_page.png"):
        Image.open(out / name).quantize().save(out / name, optimize=True)


def define_flags() -> None:
    flags.DEFINE_string("address", "http://127.0.0.1:7860", "Where the page is served.")
    flags.DEFINE_string("chromium", "/usr/bin/chromium", "The browser.")
    flags.DEFINE_integer("width", 960, "Of its window, in pixels.", 1)
    flags.DEFINE_string("out", str(PICTURES), "Folder of the pictures.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
