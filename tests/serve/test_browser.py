"""The page in a real browser: every tab does its work, tells mistakes, fits a phone and loads nothing from elsewhere.

Needs Chromium and Playwright (`apt install chromium`, `pip install playwright`); without them it is skipped.
"""

import shutil

import pytest
from servekit import PHOTO, png, serving

from liquid_mm.serve.settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    # Raised by gradio and what it imports.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning:pydub"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:pydub"),
]

# Without these Chromium looks for updates and for Google's hosts.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PATIENCE = 20_000  # milliseconds
SCREENS = {
    "desk": {"viewport": {"width": 1200, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
DRAWN = "img[src*='/gradio_api/file=']"


@pytest.fixture(scope="module")
def served():
    with serving(Settings(max_output_tokens=40), page=True) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(params=["desk", "phone"])
def visit(served, browser, request):
    """A page just opened, which must have asked only this server and complained of nothing when it is closed."""
    asked, complaints = [], []
    context = browser.new_context(**SCREENS[request.param])
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(served.url)
    page.get_by_role("heading", name="Liquid").wait_for()
    yield page
    context.close()
    elsewhere = [url for url in asked if not url.startswith((served.url, "data:", "blob:", "ws://127.0.0.1"))]
    assert not elsewhere
    assert not complaints


def open_tab(page, name):
    """The panel of a tab, which must not be wider than the screen."""
    page.get_by_role("tab", name=name).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_role("button").first.wait_for()
    wide, seen = page.evaluate("[document.scrollingElement.scrollWidth, window.innerWidth]")
    assert wide <= seen
    return panel


def pictures(page, panel, count):
    """Wait until `count` pictures are shown, whole and large enough to see."""
    drawn = panel.locator(DRAWN)
    drawn.nth(count - 1).wait_for()
    page.wait_for_function(
        "images => images.every(image => image.complete && image.naturalWidth > 0)",
        arg=page.evaluate_handle("images => images", drawn.element_handles()),
    )
    assert all(box["width"] > 100 for box in (drawn.nth(number).bounding_box() for number in range(count)))


def says(page, words):
    """Wait until the page tells the visitor something, where the visitor sees it."""
    told = page.get_by_role("alert").get_by_text(words).or_(page.get_by_text(words)).first
    told.wait_for()
    box, size = told.bounding_box(), page.viewport_size
    assert 0 <= box["x"] <= box["x"] + box["width"] <= size["width"]
    assert 0 <= box["y"] <= box["y"] + box["height"] <= size["height"]


def test_create_draws_four_pictures_and_keeps_them_in_the_gallery(visit):
    panel = open_tab(visit, "Create")
    assert panel.get_by_label("Seed").input_value() == "", "a seed nobody chose is a new one"
    panel.get_by_role("button", name="Draw").click()
    says(visit, "say what to draw.")
    panel.get_by_label("What to draw").fill("a red apple")
    panel.get_by_label("Seed").fill("five")
    panel.get_by_role("button", name="Draw").click()
    says(visit, "it must be a whole number")
    panel.get_by_label("Seed").fill("5")
    panel.get_by_label("What to draw").focus()
    visit.keyboard.press("Enter")
    panel.get_by_text("a red apple · 32 × 32 · guidance 7 · seed 8").first.wait_for(state="attached")
    pictures(visit, panel, 8)  # four that grew, and the same four in the gallery


def test_understand_answers_about_a_dropped_picture(visit):
    panel = open_tab(visit, "Understand")
    panel.get_by_role("button", name="Ask").click()
    says(visit, "drop a picture first.")
    picture = {"name": "photo.png", "mimeType": "image/png", "buffer": png(PHOTO)}
    panel.locator("input[type=file]").set_input_files(picture)
    panel.locator("img").first.wait_for()
    panel.get_by_label("Question").fill("What is this?")
    panel.get_by_role("button", name="Ask").click()
    answer = panel.get_by_label("Answer")
    visit.wait_for_function("box => box.value.length > 0", arg=answer.element_handle())


def test_chat_goes_on(visit):
    panel = open_tab(visit, "Chat")
    for number, words in enumerate(("Draw a duck.", "And a goose.")):
        box = panel.get_by_placeholder("Draw a red apple.")
        said = panel.get_by_test_id("user").get_by_text(words)
        for _ in range(40):  # what is sent while a reply runs is not taken, and stays in the box
            box.fill(words)
            box.press("Enter")
            visit.wait_for_timeout(500)
            if said.count():
                break
        said.wait_for()
        panel.get_by_test_id("bot").nth(number).wait_for()
    assert panel.get_by_role("button", name="Share").count() == 0, "nothing is sent elsewhere"


def test_compare_sets_guidances_side_by_side(visit):
    panel = open_tab(visit, "Compare")
    panel.get_by_role("button", name="Compare").click()
    says(visit, "say what to draw.")
    panel.get_by_label("What to draw").fill("a rocket")
    panel.get_by_role("button", name="Compare").click()
    panel.get_by_text("guidance 12").wait_for()
    pictures(visit, panel, 4)
