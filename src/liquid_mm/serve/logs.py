"""The server's log: one JSON object a line, each with the id of the request it is about.

    {"time": "2026-01-01T12:00:00", "level": "info", "message": "answered", "request_id": "req_4f…", "status": 200, …}

Prompts and pictures are not in it unless `Settings.log_prompts` says so.
"""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar

logger = logging.getLogger("liquid_mm.serve")
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what was given as `extra` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "request_id": request_id.get(),
            **{name: value for name, value in vars(record).items() if name not in _ORDINARY},
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in fields.items() if value is not None}, default=str)


def log_config() -> dict[str, object]:
    """For `logging.config.dictConfig`: our log and uvicorn's own as JSON lines to standard error."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"json": {"class": "logging.StreamHandler", "formatter": "json"}},
        "loggers": {
            name: {"handlers": ["json"], "level": "INFO", "propagate": False}
            for name in ("liquid_mm.serve", "uvicorn", "uvicorn.error")
        },
    }
