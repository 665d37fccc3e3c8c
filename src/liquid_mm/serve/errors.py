"""Why the server did not do what it was asked, apart from the mistakes of users that are `UserError`s."""

from __future__ import annotations


class Refused(Exception):
    """A request that is not served; the message is for whoever sent it.

    Attributes:
        status: the HTTP status that says so.
        kind, code: OpenAI's `type` and `code` of the error.
        retry_after: seconds after which another try makes sense, or None.
    """

    status, kind, code = 500, "server_error", "internal_error"
    retry_after: int | None = None


class Unauthorized(Refused):
    """There is no key, or not one of ours."""

    status, kind, code = 401, "authentication_error", "invalid_api_key"


class NoSuchModel(Refused):
    """Another model than the one served was asked for."""

    status, kind, code = 404, "invalid_request_error", "model_not_found"


class TooLarge(Refused):
    """The request has more bytes than are read."""

    status, kind, code = 413, "invalid_request_error", "request_too_large"


class Busy(Refused):
    """Too much waits already, of everybody's or of one key's."""

    status, kind, code = 429, "rate_limit_error", "queue_full"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Stopping(Refused):
    """The server finishes what runs and takes nothing new, or is not ready yet."""

    status, kind, code = 503, "server_error", "unavailable"
    retry_after = 5


class TimedOut(Refused):
    """The request's deadline passed."""

    status, kind, code = 504, "server_error", "timeout"


class Broke(Refused):
    """Something of ours failed; the log says what."""

    def __init__(self, message: str = "something went wrong while answering: it is in the server's log.") -> None:
        super().__init__(message)
