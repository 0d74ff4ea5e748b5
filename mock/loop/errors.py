"""Errors of the mock Learning Loop, each with the HTTP status of its answer."""

from http import HTTPStatus
from typing import Any, ClassVar


class LoopError(Exception):
    """Base of the errors with which the mock refuses a request.

    :param detail: text or object for the field `detail` of the answer.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, detail: Any) -> None:
        super().__init__(str(detail))
        self.detail = detail


class Unknown(LoopError):
    """An addressed object does not exist."""

    status = HTTPStatus.NOT_FOUND


class Conflict(LoopError):
    """An object exists already."""

    status = HTTPStatus.CONFLICT
