"""The OpenAPI document: what FastAPI reads from the routes, and what it cannot know: bodies and error answers.

Errors are answered by the handlers of `error_answers`, from below the routes, and the bodies of commands and of Label
Studio's requests are read by hand. What is said of the latter is no more than the node insists on, since versions of
Label Studio send more or less.
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
    400: 'The image is empty, broken or of impossible size, or the command is none',
    401: 'A credential is missing or wrong',
    403: 'A web page of another origin asks',
    404: 'No image of this name waits in the outbox',
    408: 'The body does not come in time',
    409: 'The request needs a Learning Loop and none is configured, or another process changes the models',
    413: 'More bytes or pixels than the limit',
    415: 'Not JPEG, PNG or WebP, or animated',
    422: 'A field is missing or has an impossible value',
    500: 'The image waits in the outbox, but it or its metadata is damaged',
    502: 'The Learning Loop or Label Studio does not answer as agreed',
    503: 'No model serves (yet), or the node has too much to do, or ends: see Retry-After',
    507: 'What is to be sent to the Learning Loop cannot be stored',
}
_EVERYWHERE: Final = (403, 503)
_WITH_BODY: Final = (408, 413)
_IMAGE: Final = (400, 415, 422, 507)
_STATUSES: Final[Mapping[tuple[str, str], tuple[int, ...]]] = {
    ('post', '/detect'): _IMAGE,
    ('post', '/poses'): _IMAGE,
    ('post', '/upload'): (*_IMAGE, 409),
    ('get', '/outbox'): (409, 422),
    ('get', '/outbox/{name}/image'): (404, 409, 422, 500),
    ('get', '/outbox/{name}/metadata'): (404, 409, 500),
    ('put', '/model_version'): (409, 422, 502),
    ('put', '/outbox_mode'): (409, 422),
    ('put', '/operation_mode'): (422,),
    ('put', '/debug_logging'): (400, 422),
    ('put', '/socketio'): (400, 422),
    ('get', '/health'): (401,),
    ('post', '/setup'): (422,),
    ('post', '/predict'): (422,),
    ('post', '/validate'): (422,),
    ('post', '/train'): (422,),
    ('post', '/webhook'): (422, 507),
}
"""Error answers by method and path; FastAPI's own 422, of another form, is left out elsewhere."""


def _text(*examples: str, pattern: str | None = None) -> Schema:
    known = {'enum': list(examples)} if pattern is None else {'pattern': pattern, 'examples': list(examples)}
    return {'required': True, 'content': {'text/plain': {'schema': {'type': 'string'} | known}}}


def _json(schema: Schema) -> Schema:
    return {'required': True, 'content': {'application/json': {'schema': schema}}}


_OBJECT: Final[Schema] = {'type': 'object'}
_CONFIG: Final[Schema] = {'type': ['string', 'null'], 'description': 'XML of the labeling config'}
_TASK: Final[Schema] = {'properties': {'id': {}, 'data': {'description': "With the image's address"}}}
_HINT: Final[Schema] = {'description': 'What is not understood is passed over'}
_CONTEXT: Final[Schema] = {
    'description': "Of an interactive request: the regions of the prompt's label, the prompt last",
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
"""Of routes that write their answers by hand."""


def install(app: FastAPI) -> None:
    """Let an app's document say what this node expects and answers."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = completed(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's manual says


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """A document with bodies and error answers."""
    schemas = document.setdefault('components', {}).setdefault('schemas', {})
    schemas[ERROR] = _record(detail={'type': 'string', 'description': 'What to change'})
    for path, operations in document['paths'].items():
        for method, operation in operations.items():
            _complete(operation, (method, path))
    for name in ('HTTPValidationError', 'ValidationError'):
        schemas.pop(name, None)
    return document


def _statuses(method: str, path: str) -> set[int]:
    """Those of the route itself, and those of the middlewares around it."""
    found = {*_STATUSES.get((method, path), ()), *_EVERYWHERE}
    if method in ('post', 'put'):
        found.update(_WITH_BODY)
    if policy_of(path).access not in (Access.OPEN, Access.LOGIN):
        found.add(401)
    return found


def _complete(operation: dict[str, Any], key: tuple[str, str]) -> None:
    responses = operation['responses']
    responses.pop('422', None)
    for status in sorted(_statuses(*key)):
        content = {'application/json': {'schema': {'$ref': f'#/components/schemas/{ERROR}'}}}
        responses[str(status)] = {'description': _MEANINGS[status], 'content': content}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            seconds = {'description': 'Seconds', 'schema': {'type': 'integer'}}
            responses[str(status)]['headers'] = {'Retry-After': seconds}
    if key in _BODIES:
        operation['requestBody'] = _BODIES[key]
    if key in _ANSWERS:
        responses['200']['content'] = {'application/json': {'schema': _ANSWERS[key]}}
