"""What a mock Learning Loop refuses, each with the HTTP status that it is answered with."""

from http import HTTPStatus
from typing import Any, ClassVar


class LoopError(Exception):
    """Base of what the mock refuses; `detail` is the answer's text or object."""

    status: ClassVar[HTTPStatus] = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, detail: Any) -> None:
        super().__init__(str(detail))
        self.detail = detail


class Unknown(LoopError):
    status = HTTPStatus.NOT_FOUND


class Conflict(LoopError):
    status = HTTPStatus.CONFLICT
