"""Pictures that people send: as data URLs, as uploads and, from hosts an operator names, by address.

    data:image/png;base64,iVBORw0…                   always
    https://pictures.example.org/cat.png             only where "pictures.example.org" is listed

What arrives is bytes from strangers. Only the common formats are handed to a decoder, sizes are read from the header
before any pixel is decoded, and an address is connected to only if its host is listed and everything it resolves to is
public: at the moment of connecting, so neither a redirect nor a name that changes its mind leads inside.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import ipaddress
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
from PIL import Image

from liquid_mm.errors import UserError
from liquid_mm.image.preprocess import open_image

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)
_STARTS = (rb"\x89PNG\r\n\x1a\n", rb"\xff\xd8\xff", rb"GIF8[79]a", rb"RIFF....WEBP")
_MAGIC = re.compile(b"|".join(_STARTS), re.DOTALL)
_REDIRECTS = 3
_SECONDS = 10.0


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet."""
    ip = ipaddress.ip_address(address)
    inner = getattr(ip, "ipv4_mapped", None) or ip
    return bool(inner.is_global and not inner.is_multicast)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Reads what people send.

    Args:
        max_pixels: width times height, at most.
        max_bytes: of a picture fetched by its address.
        hosts: names that may be fetched from.
        allowed: which IP addresses may be connected to; another one only in tests.
    """

    max_pixels: int
    max_bytes: int
    hosts: tuple[str, ...] = ()
    allowed: Callable[[str], bool] = is_public

    def from_url(self, url: str) -> Image.Image:
        """A picture from a data URL or, where its host is listed, from an address.

        Raises:
            UserError: it is neither, its host is not listed or not public, or it holds no picture that can be read.
        """
        if start := _DATA_URL.match(url):
            try:
                return self.from_bytes(base64.b64decode(url[start.end() :], validate=True))
            except binascii.Error as error:
                raise UserError(f"an image's data URL is not valid base64: {error}.") from error
        if not self.hosts:
            raise UserError(
                "images are taken as data URLs (data:image/png;base64,…): this server fetches none by address."
            )
        return self.from_bytes(self._fetch(url))

    def from_bytes(self, data: bytes) -> Image.Image:
        """A picture from the bytes of a PNG, JPEG, WebP or GIF (its first frame).

        Raises:
            UserError: it is none of them, damaged, or too large.
        """
        if not _MAGIC.match(data):
            raise UserError("an image is not a PNG, JPEG, WebP or GIF.")
        try:
            return open_image(data, max_pixels=self.max_pixels)
        except UserError:
            raise
        except Exception as error:
            # A mutilated file can make a decoder fail in any way at all.
            raise UserError(f"an image is damaged: {error}") from error

    def _fetch(self, url: str) -> bytes:
        with httpcore.ConnectionPool(network_backend=_Guard(self.allowed)) as pool:
            for _ in range(1 + _REDIRECTS):
                self._check_host(url)
                try:
                    status, location, data = self._get(pool, url)
                except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                    raise UserError(f"the image at {url} cannot be fetched: {error}") from error
                if status == 200:
                    return data
                if status not in (301, 302, 303, 307, 308) or not location:
                    raise UserError(f"the image at {url} cannot be fetched: the answer is {status}.")
                url = urllib.parse.urljoin(url, location)
        raise UserError(f"the image at {url} cannot be fetched: more than {_REDIRECTS} redirects.")

    def _check_host(self, url: str) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            scheme, host = parts.scheme, parts.hostname
        except ValueError as error:
            raise UserError(f"{url!r} is not an address: {error}.") from error
        if scheme not in ("http", "https") or host not in self.hosts:
            raise UserError(
                f"images may be fetched over http and https from {', '.join(self.hosts)}, not from {url!r}."
            )

    def _get(self, pool: httpcore.ConnectionPool, url: str) -> tuple[int, str, bytes]:
        """Status, target of a redirect ("" if it is none), body."""
        until = time.monotonic() + _SECONDS
        limits = {"timeout": {"connect": _SECONDS, "read": _SECONDS, "write": _SECONDS, "pool": _SECONDS}}
        with pool.stream("GET", url, headers={"Accept": "image/*"}, extensions=limits) as response:
            headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            data = b""
            for chunk in response.iter_stream() if response.status == 200 else ():
                data += chunk
                if len(data) > self.max_bytes:
                    raise UserError(f"the image at {url} has more than {self.max_bytes:,} bytes.")
                if time.monotonic() > until:
                    raise UserError(f"the image at {url} took more than {_SECONDS:.0f} seconds.")
            return response.status, headers.get(b"location", ""), data


class _Guard(httpcore.NetworkBackend):
    """Connects only to addresses that are allowed, after resolving the name and to exactly what was checked."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} is unknown: {error}") from error
        addresses = [str(address[0]) for *_, address in found]
        if not all(map(self._allowed, addresses)):
            raise UserError(f"{host} is a private address: images are fetched from public ones only.")
        return self._sockets.connect_tcp(addresses[0], port, timeout, local_address, socket_options)
