"""Make the pictures of the page in docs/images from the demo model: `python docs/screenshots.py` (needs Chromium)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
DRAWN = "img[src*='/gradio_api/file=']"
PATIENCE = 600  # seconds


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until_ready(url: str) -> None:
    """Until the server takes requests."""
    end = time.time() + PATIENCE
    while time.time() < end:
        try:
            with urllib.request.urlopen(f"{url}/health/ready"):
                return
        except OSError:
            time.sleep(1)
    raise TimeoutError(f"{url} is not ready after {PATIENCE} seconds")


def tab(page: Page, name: str) -> Locator:
    """Open a tab; its panel."""
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel").filter(visible=True)


def settled(page: Page, panel: Locator) -> None:
    """Until a panel has not changed for four seconds, apart from the clock of what is under way."""
    before, still = "", 0
    while still < 4:
        page.wait_for_timeout(1000)
        now = panel.evaluate(
            "p => [...p.querySelectorAll('img, textarea, p')].map(e => e.src || e.value || e.innerText).join()"
        )
        still = still + 1 if now == before else 0
        before = now


def drawn_apple(url: str) -> bytes:
    """A picture to ask about: one the model draws."""
    body = json.dumps({"prompt": "a red apple, 3D style", "seed": 0}).encode()
    request = urllib.request.Request(f"{url}/v1/images/generations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return base64.b64decode(json.load(answer)["data"][0]["b64_json"])


def photograph(page: Page, apple: bytes) -> None:
    """Use every tab once and take its picture."""
    panel = tab(page, "Create")
    panel.get_by_label("What to draw").fill("a red apple, 3D style")
    panel.get_by_label("Seed").fill("0")
    panel.get_by_role("button", name="Draw").click()
    panel.locator(DRAWN).nth(7).wait_for()
    settled(page, panel)
    page.screenshot(path=IMAGES / "page_create.png")
    panel = tab(page, "Understand")
    panel.locator("input[type=file]").set_input_files({"name": "apple.png", "mimeType": "image/png", "buffer": apple})
    panel.locator("img").first.wait_for()
    panel.get_by_label("Question").fill("Is there a cat face?")
    panel.get_by_role("button", name="Ask").click()
    page.wait_for_function("box => box.value.length > 0", arg=panel.get_by_label("Answer").element_handle())
    settled(page, panel)
    page.screenshot(path=IMAGES / "page_understand.png")
    panel = tab(page, "Chat")
    box = panel.get_by_placeholder("Draw a red apple.")
    box.fill("Draw a red heart.")
    box.press("Enter")
    panel.get_by_test_id("bot").first.wait_for()
    settled(page, panel)
    page.screenshot(path=IMAGES / "page_chat.png")
    panel = tab(page, "Compare")
    panel.get_by_label("What to draw").fill("a sunflower, 3D style")
    panel.get_by_role("button", name="Compare").click()
    panel.locator(DRAWN).nth(3).wait_for()
    settled(page, panel)
    page.screenshot(path=IMAGES / "page_compare.png")


def main() -> None:
    """Serve, visit, photograph."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    server = subprocess.Popen([sys.executable, "-m", "liquid_mm.cli", "serve", "demo", "--port", str(port)])
    try:
        wait_until_ready(url)
        apple = drawn_apple(url)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1200, "height": 860})
            page.set_default_timeout(PATIENCE * 1000)
            page.goto(url)
            photograph(page, apple)
            browser.close()
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
