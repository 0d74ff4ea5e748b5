"""Turns errors into HTTP answers: a status, and a JSON `detail` that tells the caller what to change."""

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
    """Make an app answer our errors, and those of FastAPI's validation, in the same form."""
    app.add_exception_handler(WholebodyError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_failure)


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WholebodyError)
    return answer(error)


def answer(error: WholebodyError, **headers: str) -> JSONResponse:
    """Return the answer for an error, with its Retry-After or WWW-Authenticate header.

    :param headers: additional headers.
    """
    note_error(error)
    if isinstance(error, Busy):
        headers['Retry-After'] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers['WWW-Authenticate'] = error.challenge
    return JSONResponse({'detail': str(error)}, status_code=error.status, headers=headers)


async def _answer_failure(_: Request, __: Exception) -> JSONResponse:
    detail = f'the request failed inside the node; its log gives the reason under the request id {request_id()}'
    return JSONResponse({'detail': detail}, status_code=500)


async def _answer_invalid_request(_: Request, error: Exception) -> JSONResponse:
    """Name the wrong fields and the reasons. The values are left out: they may be large or binary."""
    assert isinstance(error, RequestValidationError)
    faults = [f'{".".join(str(part) for part in fault["loc"][1:])}: {fault["msg"]}' for fault in error.errors()]
    return answer(InvalidRequest('; '.join(faults)))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answer like FastAPI, except that a failure to buffer a large body is the node's fault and not the client's."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, OSError):
        reason = cause.strerror or str(cause)
        log.error('a request cannot be stored in the folder for temporary files: %s', reason)
        detail = f"the request cannot be stored in the node's folder for temporary files (TMPDIR): {reason}"
        return answer(OutboxFault(detail))
    return await http_exception_handler(request, error)
