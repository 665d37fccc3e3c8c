"""The page in a real browser: every tab does its work, tells mistakes, fits a phone and loads nothing from elsewhere.

Needs Chromium and Playwright (`apt install chromium`, `pip install playwright`); without them it is skipped.
"""

import shutil

import pytest
from servekit import PHOTO, png, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# Without these Chromium looks for updates and for Google's hosts.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PATIENCE = 60_000  # milliseconds
DRAWN = "img[src*='/gradio_api/file=']"


@pytest.fixture(scope="module")
def served():
    with serving(page=True) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(served, browser):
    """A page just opened, which must have asked only this server and complained of nothing when it is closed."""
    asked, complaints = [], []
    context = browser.new_context(viewport={"width": 1200, "height": 900})
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
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel").filter(visible=True)


def pictures(panel, count):
    """Wait until `count` pictures are shown in full."""
    panel.locator(DRAWN).nth(count - 1).wait_for()
    sizes = panel.locator(DRAWN).evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(sizes) >= count


def test_create_draws_four_pictures_and_keeps_them_in_the_gallery(visit):
    panel = open_tab(visit, "Create")
    panel.get_by_label("What to draw").fill("a red apple")
    panel.get_by_label("Seed").fill("5")
    panel.get_by_role("button", name="Draw").click()
    pictures(panel, 8)  # four growing, then four in the gallery
    assert panel.get_by_text("seed 8").first.is_visible() or "seed 8" in panel.inner_html()


def test_enter_draws_without_a_mouse(visit):
    panel = open_tab(visit, "Create")
    panel.get_by_label("What to draw").fill("a house")
    visit.keyboard.press("Enter")
    pictures(panel, 4)


def test_a_mistake_is_told_in_words(visit):
    panel = open_tab(visit, "Create")
    panel.get_by_role("button", name="Draw").click()
    visit.get_by_text("say what to draw.").wait_for()


def test_understand_answers_about_a_dropped_picture(visit):
    panel = open_tab(visit, "Understand")
    picture = {"name": "photo.png", "mimeType": "image/png", "buffer": png(PHOTO)}
    panel.locator("input[type=file]").set_input_files(picture)
    panel.locator("img").first.wait_for()
    panel.get_by_label("Question").fill("What is this?")
    panel.get_by_role("button", name="Ask").click()
    answer = panel.get_by_label("Answer")
    visit.wait_for_function("box => box.value.length > 0", arg=answer.element_handle())


def test_chat_replies(visit):
    panel = open_tab(visit, "Chat")
    panel.get_by_placeholder("Draw a red apple.").fill("Draw a duck.")
    visit.keyboard.press("Enter")
    panel.get_by_test_id("bot").first.wait_for()
    panel.get_by_test_id("user").get_by_text("Draw a duck.").wait_for()


def test_compare_sets_guidances_side_by_side(visit):
    panel = open_tab(visit, "Compare")
    panel.get_by_label("What to draw").fill("a rocket")
    panel.get_by_role("button", name="Compare").click()
    panel.get_by_text("guidance 12, seed 0").wait_for()
    pictures(panel, 4)


@pytest.mark.parametrize("name", ["Create", "Understand", "Chat", "Compare"])
def test_every_tab_fits_a_phone(visit, name):
    visit.set_viewport_size({"width": 390, "height": 844})
    open_tab(visit, name)
    wide, seen = visit.evaluate("[document.scrollingElement.scrollWidth, window.innerWidth]")
    assert wide <= seen
