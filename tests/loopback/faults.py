"""What a test lets go wrong in an answer of the Hub on loopback, and the script that says when."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# What a fault does. `after` counts bytes of the answer's body; 0 is before the status line and, for a request that
# changes something, before the change.


@dataclass(frozen=True)
class Status:
    """This answer instead of the real one; nothing is done."""

    code: int
    error_code: str | None = None
    retry_after: int | None = None
    body: bytes = b""


@dataclass(frozen=True)
class Reset:
    """A TCP reset."""

    after: int = 0


@dataclass(frozen=True)
class Cut:
    """The connection closed in good order, too early."""

    after: int = 0


@dataclass(frozen=True)
class Stall:
    """Nothing more until the seconds have passed or the server stops, then the rest."""

    after: int = 0
    seconds: float = 60.0


@dataclass(frozen=True)
class Drip:
    """The body in pieces of `chunk` bytes with a pause after each."""

    chunk: int
    pause: float


@dataclass(frozen=True)
class Truncate:
    """A body without its last bytes, and a Content-Length that fits it."""

    missing: int = 1


@dataclass(frozen=True)
class Flip:
    """One bit of the body's byte at `offset` the other way round."""

    offset: int = 0


@dataclass(frozen=True)
class Header:
    """An answer's header replaced, or left out if the value is None."""

    name: str
    value: str | None


@dataclass(frozen=True)
class LostAnswer:
    """The request is carried out, then the connection is reset instead of an answer."""


@dataclass(frozen=True)
class Before:
    """Something else happens first (a concurrent commit, a process killed), then the request is carried out.

    First is before the request's body is read: a client that is killed there while it uploads leaves nothing behind,
    if what it uploads does not fit the system's buffers.
    """

    call: Callable[[], object]


Fault = Status | Reset | Cut | Stall | Drip | Truncate | Flip | Header | LostAnswer | Before
Port = Literal["hub", "cdn"]


@dataclass(frozen=True)
class Request:
    """One request as it came in; `path` is still quoted and has its query, header names are in lower case."""

    method: str
    path: str
    server: Port
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Script:
    """Faults that the next requests of a kind meet together; `hits` counts the requests that have met them."""

    method: str
    pattern: str
    faults: tuple[Fault, ...]
    times: int | None
    server: Port | None
    when_range: bool
    hits: int = 0

    def matches(self, request: Request) -> bool:
        return (
            self.times != self.hits
            and self.server in (None, request.server)
            and (not self.when_range or "range" in request.headers)
            and re.fullmatch(self.method, request.method) is not None
            and re.search(self.pattern, request.path) is not None
        )
