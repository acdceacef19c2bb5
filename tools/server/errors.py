"""From a typed error to a status and OpenAI's form; other wire formats render a `Problem` their own way."""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import InputError, MemoryLimitError, MiaotuiError, TokenizerError
from ...runtime.sampling import NotNumbersError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Problem", "RequestError", "openai_error", "problem_of"]

#: How a message about an argument begins: its name, as it was typed.
_NAMED = re.compile(r"(\w+)(\[[^]]*])?\s?[=:]")
#: And where two arguments do not go together.
_TWO = re.compile(r"(\w+) and (\w+):")
_NEXT_TO = re.compile(r"(?<=: )\w+(?= and beams )")


class RequestError(MiaotuiError):
    """A request that is not answered, or no further."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """`param`: the field that is wrong; `code`: OpenAI's word for it; `retry_after`: seconds."""
        super().__init__(message)
        self.param, self.status, self.code, self.retry_after = param, status, code, retry_after


@dataclass(frozen=True)
class Problem:
    """What is wrong with a request, for any wire format."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


#: OpenAI's words for the kinds of errors.
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
#: The first status of the server's own faults.
SERVERS = 500


def problem_of(error: BaseException, names: Mapping[str, str] | None = None) -> Problem:
    """What to tell the client. `names`: parameters of `generate` -> what the request calls them."""
    if isinstance(error, RequestError):
        kind = _KINDS.get(error.status, "server_error" if error.status >= SERVERS else "invalid_request_error")
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return Problem(error.status, str(error), kind, error.param, error.code, headers)
    if isinstance(error, NotNumbersError):
        return Problem(500, str(error), "server_error", code="not_numbers")
    if isinstance(error, InputError | TokenizerError):
        message, param = _renamed(str(error), names or {})
        return Problem(400, message, param=param, code="context_length_exceeded" if _too_long(message) else None)
    if isinstance(error, MemoryLimitError):
        return Problem(503, str(error), "server_error", code="no_memory")
    if isinstance(error, MiaotuiError):
        return Problem(501, str(error), "server_error", code="not_supported")
    return Problem(500, "the server failed to answer this request; its log says why", "server_error", code="internal")


def _renamed(message: str, names: Mapping[str, str]) -> tuple[str, str | None]:
    """The message, and the parameter that it begins with, by the name that the request has for it."""
    if (both := _TWO.match(message)) and both[1] in names and both[2] in names:
        return f"{names[both[1]]} and {names[both[2]]}{message[both.end(2) :]}", names[both[1]]
    match = _NAMED.match(message)
    name = None if match is None else names.get(match[1])
    if match is None or name is None:
        return message, None
    rest = _NEXT_TO.sub(lambda found: names.get(found[0], found[0]) if names else found[0], message[match.end(1) :])
    return name + rest, name


def _too_long(message: str) -> bool:
    return "more than the context of" in message


def openai_error(problem: Problem) -> dict[str, object]:
    """As OpenAI's API tells errors."""
    told = {"message": problem.message, "type": problem.kind, "param": problem.param, "code": problem.code}
    return {"error": told}
