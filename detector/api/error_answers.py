"""What HTTP callers get when something goes wrong: a JSON `detail` that says what to change."""

import logging
import math

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from detector.errors import Busy, InvalidRequest, OutboxFault, Unauthorized, WholebodyError
from detector.observability.request_context import note_error, request_id

log = logging.getLogger('wholebody.node')


def install(app: FastAPI) -> None:
    """Let an app answer our errors and those of FastAPI's own checks."""
    app.add_exception_handler(WholebodyError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_failure)


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WholebodyError)
    return answer(error)


def answer(error: WholebodyError, **headers: str) -> JSONResponse:
    """The answer to a request that failed.

    :param headers: further ones.
    """
    note_error(error)
    if isinstance(error, Busy):
        headers['Retry-After'] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers['WWW-Authenticate'] = error.challenge
    return JSONResponse({'detail': str(error)}, status_code=error.status, headers=headers)


async def _answer_failure(_: Request, __: Exception) -> JSONResponse:
    detail = f'the request fails inside the node; its log says why, at the request id {request_id()}'
    return JSONResponse({'detail': detail}, status_code=500)


async def _answer_invalid_request(_: Request, error: Exception) -> JSONResponse:
    """Say which field is wrong and why, without the value, which may be large or no text."""
    assert isinstance(error, RequestValidationError)
    faults = [f'{".".join(str(part) for part in fault["loc"][1:])}: {fault["msg"]}' for fault in error.errors()]
    return answer(InvalidRequest('; '.join(faults)))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """As FastAPI does, but for large bodies that cannot be kept: it calls every fault of reading them the client's."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, OSError):
        reason = cause.strerror or str(cause)
        log.error('a request cannot be kept in the folder for temporary files: %s', reason)
        detail = f"the request cannot be kept in the node's folder for temporary files (TMPDIR): {reason}"
        return answer(OutboxFault(detail))
    return await http_exception_handler(request, error)
