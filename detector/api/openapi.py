"""Completes FastAPI's OpenAPI document with bodies and error answers, which FastAPI cannot derive from the routes.

The handlers of `error_answers` answer errors outside of the routes. The bodies of commands and of Label Studio's
requests are parsed by hand. The document states only what the node requires of the latter, because versions of Label
Studio differ in what they send.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI

from detector.api.route_policy import Access, policy_of
from detector.outbox.outbox import OutboxMode
from detector.pose.skeleton import KEYPOINT_COUNT

Schema = dict[str, Any]

ERROR: Final = 'Error'
_MEANINGS: Final[Mapping[int, str]] = {
    400: 'The image is empty, broken or of an unsupported size, or the command is unknown',
    401: 'A credential is missing or wrong',
    403: 'A web page of another origin sends the request',
    404: 'No image of this name waits in the outbox',
    408: 'The body did not arrive in time',
    409: 'The request needs a Learning Loop and none is configured, or another process changes the models',
    413: 'The body or an image exceeds a limit on bytes or pixels',
    415: 'The image is not JPEG, PNG or WebP, or it is animated',
    422: 'A field is missing or has an invalid value',
    500: 'The image waits in the outbox, but it or its metadata is damaged',
    502: 'The Learning Loop or Label Studio does not answer, or its answer is malformed',
    503: 'No model is loaded, or the node is overloaded or shuts down; see Retry-After',
    507: 'The image or correction for the Learning Loop cannot be stored',
}
_EVERYWHERE: Final = (403, 503)
_WITH_BODY: Final = (408, 413)
IMAGE_ERRORS: Final = (400, 415, 422, 507)
"""Error statuses of the routes that take images."""
_UPSTREAM: Final[Mapping[tuple[str, str], tuple[int, ...]]] = {
    ('put', '/operation_mode'): (422,),
    ('put', '/debug_logging'): (400, 422),
    ('put', '/socketio'): (400, 422),
}
"""Error statuses of upstream's routes, by method and path."""


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers, for the parameter `responses` of a route."""
    content = {'application/json': {'schema': {'$ref': f'#/components/schemas/{ERROR}'}}}
    return {status: {'description': _MEANINGS[status], 'content': content} for status in statuses}


def _text(*examples: str, pattern: str | None = None) -> Schema:
    known = {'enum': list(examples)} if pattern is None else {'pattern': pattern, 'examples': list(examples)}
    return {'required': True, 'content': {'text/plain': {'schema': {'type': 'string'} | known}}}


def _json(schema: Schema) -> Schema:
    return {'required': True, 'content': {'application/json': {'schema': schema}}}


_OBJECT: Final[Schema] = {'type': 'object'}
_CONFIG: Final[Schema] = {'type': ['string', 'null'], 'description': 'XML of the labeling config'}
_TASK: Final[Schema] = {'properties': {'id': {}, 'data': {'description': "With the image's address"}}}
_HINT: Final[Schema] = {'description': 'Content that the node does not understand is ignored'}
_CONTEXT: Final[Schema] = {
    'description': "For an interactive request: the regions of the prompt's label, the prompt last",
    'examples': [{'result': []}],
}
_BODIES: Final[Mapping[tuple[str, str], Schema]] = {
    ('put', '/model_version'): _text(
        'follow_loop', 'pause', '1.2', pattern=r'^(follow_loop|pause|[0-9]{1,9}(\.[0-9]{1,9}){0,3})$'
    ),
    ('put', '/outbox_mode'): _text(*(mode.value for mode in OutboxMode)),
    ('put', '/operation_mode'): _text('idle', 'detecting'),
    ('put', '/debug_logging'): _text('on', 'off'),
    ('put', '/socketio'): _text('on', 'off'),
    ('post', '/setup'): _json({'type': 'object', 'properties': {'hostname': {'description': 'URL of Label Studio'}}}),
    ('post', '/predict'): _json(
        {
            'type': 'object',
            'required': ['tasks'],
            'properties': {
                'tasks': {'type': 'array', 'items': _TASK},
                'label_config': _CONFIG,
                'params': {'properties': {'context': _CONTEXT}},
            },
        }
    ),
    ('post', '/validate'): _json(
        {'type': 'object', 'required': ['config'], 'properties': {'config': {'type': 'string'}}}
    ),
    ('post', '/train'): _json(_OBJECT),
    ('post', '/webhook'): _json(
        {'type': 'object', 'properties': dict.fromkeys(('action', 'project', 'annotation', 'annotations'), _HINT)}
    ),
}

_NUMBER: Final[Schema] = {'type': 'number'}


def _record(**properties: Schema) -> Schema:
    return {'type': 'object', 'required': list(properties), 'properties': properties}


_POSE: Final = _record(
    box=_record(x=_NUMBER, y=_NUMBER, width=_NUMBER, height=_NUMBER),
    confidence=_NUMBER,
    keypoints={
        'type': 'array',
        'minItems': KEYPOINT_COUNT,
        'maxItems': KEYPOINT_COUNT,
        'items': _record(name={'type': 'string'}, x=_NUMBER, y=_NUMBER, confidence=_NUMBER),
    },
)
_ANSWERS: Final[Mapping[tuple[str, str], Schema]] = {
    ('post', '/poses'): _record(
        poses={'type': 'array', 'items': _POSE},
        image=_record(width={'type': 'integer'}, height={'type': 'integer'}),
        model_version={'type': 'string'},
        timing=_OBJECT,
    ),
    ('post', '/predict'): _record(results={'type': 'array'}),
    ('get', '/outbox'): _record(
        mode={'type': 'string'}, waiting={'type': 'integer'}, images={'type': 'array', 'items': _OBJECT}
    ),
    ('get', '/outbox/{name}/metadata'): _OBJECT,
}
"""Answers of routes that FastAPI cannot describe, by method and path."""


def install(app: FastAPI) -> None:
    """Complete the OpenAPI document of an app."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = completed(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's manual says


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with bodies and error answers added; it is changed in place."""
    schemas = document.setdefault('components', {}).setdefault('schemas', {})
    schemas[ERROR] = _record(detail={'type': 'string', 'description': 'What to change'})
    for path, operations in document['paths'].items():
        for method, operation in operations.items():
            _complete(operation, (method, path))
    for name in ('HTTPValidationError', 'ValidationError'):
        schemas.pop(name, None)
    return document


def _further_statuses(method: str, path: str) -> set[int]:
    """Return the error statuses of the middlewares around a route, and those of an upstream route."""
    found = {*_UPSTREAM.get((method, path), ()), *_EVERYWHERE}
    if method in ('post', 'put'):
        found.update(_WITH_BODY)
    if policy_of(path).access not in (Access.OPEN, Access.LOGIN):
        found.add(401)
    return found


def _complete(operation: dict[str, Any], key: tuple[str, str]) -> None:
    responses = operation['responses']
    if 'HTTPValidationError' in str(responses.get('422')):  # FastAPI's own; `error_answers` gives it another form
        del responses['422']
    for status, answer in errors(*_further_statuses(*key)).items():
        responses[str(status)] = answer
    seconds = {'description': 'Seconds', 'schema': {'type': 'integer'}}
    responses[str(HTTPStatus.SERVICE_UNAVAILABLE.value)]['headers'] = {'Retry-After': seconds}
    operation['responses'] = dict(sorted(responses.items()))
    if key in _BODIES:
        operation['requestBody'] = _BODIES[key]
    if key in _ANSWERS:
        responses['200']['content'] = {'application/json': {'schema': _ANSWERS[key]}}
