"""Pictures from strangers: read, or refused with a word; addresses lead nowhere they must not."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from servekit import PHOTO, png, url

from liquid_mm.errors import UserError
from liquid_mm.serve.images import Pictures, is_public

READ = Pictures(max_pixels=2000, max_bytes=20_000)


class Handler(BaseHTTPRequestHandler):
    """/photo.png; /to?URL redirects; /large never ends soon."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        body = {"/photo.png": png(PHOTO), "/large": b"\x89PNG" * 10_000}.get(path, b"")
        self.send_response(302 if path == "/to" else 200 if body else 404)
        if path == "/to":
            self.send_header("Location", query)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_data_url_is_read():
    np.testing.assert_array_equal(READ.from_url(url(PHOTO)), PHOTO)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:image/png;base64,%%%", "not valid base64"),
        ("data:text/html;base64,aGk=", "data URLs"),
        ("data:image/png;base64,aGk=", "not a PNG"),
        ("https://example.org/a.png", "fetches none"),
        (url(PHOTO.resize((50, 50))), "50x50"),
    ],
)
def test_other_urls_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        READ.from_url(text)


def test_whatever_is_wrong_with_a_file_it_is_an_image_or_a_users_error():
    data, random = png(PHOTO), np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(data)
        for place in random.integers(8, len(data), random.integers(1, 20)):
            broken[place] = random.integers(256)
        with contextlib.suppress(UserError):
            READ.from_bytes(bytes(broken[: random.integers(20, len(data) + 1)]))


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("10.0.0.1", False), ("127.0.0.1", False), ("169.254.169.254", False), ("::1", False),
     ("0.0.0.0", False), ("::ffff:10.0.0.1", False), ("224.0.0.1", False), ("fd00::1", False), ("100.64.0.1", False),
     ("2606:4700:4700::1111", True)],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert is_public(address) == public


def test_a_listed_host_is_fetched_from_and_no_other(site):
    anywhere = Pictures(2000, 20_000, ("localhost",), allowed=lambda address: True)
    np.testing.assert_array_equal(anywhere.from_url(f"{site}/to?/photo.png"), PHOTO)
    for path, message in (
        ("/none", "the answer is 404"),
        ("/large", "more than 20,000 bytes"),
        ("/to?http://127.0.0.1:1/", "may be fetched over http and https from localhost"),
        ("/to?file:///etc/passwd", "may be fetched"),
        ("/to?/to?/to?/to?/to?/photo.png", "redirects"),
    ):
        with pytest.raises(UserError, match=message):
            anywhere.from_url(site + path)


def test_a_listed_host_that_is_private_is_not(site):
    with pytest.raises(UserError, match="localhost is a private address"):
        Pictures(2000, 20_000, ("localhost",)).from_url(f"{site}/photo.png")
