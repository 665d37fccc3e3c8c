"""What routes are given: the service, the name of the caller's key, and a check of the model's name."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from liquid_mm.serve.errors import NoSuchModel
from liquid_mm.serve.limits import Keys
from liquid_mm.serve.service import Service


def _service(http: Request) -> Service:
    service: Service = http.app.state.service
    return service


def _key(http: Request) -> str | None:
    keys: Keys = http.app.state.keys
    return keys.check(http.headers.get("authorization"))


TheService = Annotated[Service, Depends(_service)]
Key = Annotated[str | None, Depends(_key)]

SCHEME = Security(HTTPBearer(auto_error=False, description="Where the server was started with --api-key."))
"""Declares the header for the page at /docs; `Key` alone decides."""


def check_model(service: Service, name: str | None) -> None:
    """Raise `NoSuchModel` if a request names another model than the one there is."""
    if name not in (None, service.name):
        raise NoSuchModel(f"there is no model {name!r} here: this server has {service.name!r}.")
