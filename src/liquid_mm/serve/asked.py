"""What a cluster's router sends to a replica; apart, for a router needs nothing of models."""

from __future__ import annotations

import dataclasses

from starlette.types import Scope


@dataclasses.dataclass(frozen=True)
class Asked:
    """A whole HTTP request, and what was drawn for it."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    drawn: str

    def scope(self) -> Scope:
        """As ASGI has it."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": self.headers,
            "client": None,
            "server": None,
        }
