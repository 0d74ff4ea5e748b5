"""The reference pages of the site, written from the code: settings, commands, routes, events, errors, metrics, API."""

import inspect
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import typer
from prometheus_client import Metric
from pydantic import AliasChoices, SecretStr
from typer.cli import get_docs_for_click

import detector.errors
from detector.api.events import EVENTS
from detector.cli.main import app
from detector.errors import WholebodyError
from detector.node.wholebody_node import WholebodyNode
from detector.observability.request_context import RequestContext
from detector.settings import Settings, environment_name
from mock.loop.commands import app as mock_app

Schema = Mapping[str, Any]


def reference_pages() -> dict[str, str]:
    """Return the Markdown text of each generated page by its path in the site."""
    return {
        'reference/settings.md': settings_page(),
        'reference/command-line.md': command_line_page(),
        'reference/rest.md': rest_page(openapi_document()),
        'reference/events.md': events_page(),
        'reference/errors.md': errors_page(),
        'reference/metrics.md': metrics_page(collected_metrics()),
        'reference/python.md': python_page(),
    }


# ---------------------------------------------------------------- settings


def settings_page() -> str:
    """Return all settings in tables: variables with aliases, descriptions, defaults and accepted values."""
    lines = [_SETTINGS_HEAD]
    for field, schema in Settings.model_json_schema(by_alias=False)['properties'].items():
        if field in GROUPS:
            lines += ['', f'## {GROUPS[field]}', '', '| variable | meaning |', '|---|---|']
        values = f'Default: {_default(field)}. Values: {_accepted(schema)}.'
        lines.append(f'| {_variables(field)} | {schema["description"]}<br>{values} |')
    return '\n'.join([*lines, ''])


GROUPS: Final = {
    'loop_host': 'Learning Loop',
    'upload_seconds': 'Outbox and relevance',
    'node_name': 'Node',
    'mode': 'Model and engine',
    'max_requests': 'Limits and access',
    'label_studio_url': 'Label Studio',
}
"""Heading of each group of settings by the group's first field."""


def _variables(field: str) -> str:
    alias = Settings.model_fields[field].validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else [environment_name(field)]
    return ' or '.join(f'`{name}`' for name in names)


def _default(field: str) -> str:
    if field == 'data_folder':
        return "the user's data folder"
    default = Settings.model_fields[field].default
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default in (None, ''):
        return 'unset'
    return f'`{str(default).lower() if isinstance(default, bool) else default}`'


def _accepted(schema: Schema) -> str:
    """Return the values that a JSON schema accepts, as one cell of a table."""
    if 'anyOf' in schema:
        return _accepted(next(option for option in schema['anyOf'] if option.get('type') != 'null'))
    if 'enum' in schema:
        return ', '.join(f'`{value}`' for value in schema['enum'])
    kind = {'boolean': '`true`, `false`', 'integer': 'whole number', 'number': 'number'}.get(schema['type'], 'text')
    bounds = [
        f'{sign} {schema[key]:,}'
        for key, sign in (('minimum', '≥'), ('exclusiveMinimum', '>'), ('maximum', '≤'))
        if key in schema
    ]
    return ' '.join([kind, ', '.join(bounds)]).strip()


_SETTINGS_HEAD: Final = """# Settings

Settings are environment variables, or lines of a file `.env` in the working directory. `.env.example` is a template.
Empty values count as unset. If a value cannot be used, the node does not start and prints one line that names the
setting.
"""


# ---------------------------------------------------------------- command line


def command_line_page() -> str:
    """Return the help of every command; the commands of the mock Loop come from an application of their own."""
    text = _help(app, 'wholebody').replace('# `wholebody`', '# Command line', 1)
    mock_loop = re.sub('^#', '##', _help(mock_app, 'wholebody mock-loop'), flags=re.M)
    return re.sub('## `wholebody mock-loop`\n.*?(?=^## )', lambda _: f'{mock_loop}\n', text, flags=re.M | re.S)


def _help(group: typer.Typer, name: str) -> str:
    command = typer.main.get_command(group)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name=name)
    text = re.sub(r'\*\*Commands\*\*:\n\n(\* .*\n)+\n', '', text)  # lists of truncated sentences
    return text.replace('* `--help`: Show this message and exit.\n', '').replace('**Options**:\n\n\n', '')


# ---------------------------------------------------------------- REST


def openapi_document() -> Schema:
    """Return the OpenAPI document of a node."""
    with a_node() as node:
        document: Schema = node.openapi()
    return document


def rest_page(document: Schema) -> str:
    """Return every route of an OpenAPI document with its parameters, body and answers, grouped by tag."""
    groups: dict[str, list[str]] = {}
    for path, methods in document['paths'].items():
        for method, route in methods.items():
            tag = route.get('tags', ['control'])[0].replace('_', ' ')
            groups.setdefault(tag, []).append(_route(f'{method.upper()} {path}', route, document))
    order = sorted(groups, key=lambda tag: {'detect': 0, 'control': 2}.get(tag, 1))
    parts = [f'## {tag[0].upper()}{tag[1:]}\n\n{"".join(groups[tag])}' for tag in order]
    text = '\n'.join([_REST_HEAD, *_error_statuses(document), '', *parts, *_objects(document)])
    return re.sub(r'\n{3,}', '\n\n', text)


def _error_statuses(document: Schema) -> list[str]:
    """Return a table of the error statuses with their meanings."""
    meanings: dict[str, dict[str, None]] = {}
    for methods in document['paths'].values():
        for route in methods.values():
            for status, answer in route['responses'].items():
                meanings.setdefault(status, {})[answer['description']] = None
    rows = [f'| {status} | {"; ".join(meanings[status])} |' for status in sorted(meanings) if status != '200']
    return ['## Error statuses', '', '| status | meaning |', '|---|---|', *rows]


def _route(title: str, route: Schema, document: Schema) -> str:
    lines = [f'### `{title}`', '', _prose(route.get('description', '')), '']
    if parameters := route.get('parameters'):
        lines += ['| parameter | in | values | meaning |', '|---|---|---|---|']
        lines += [
            f'| `{parameter["name"]}` | {parameter["in"]} | {_accepted(parameter["schema"])} '
            f'| {parameter.get("description", "")} |'
            for parameter in parameters
        ]
        lines.append('')
    for kind, body in route.get('requestBody', {}).get('content', {}).items():
        lines += [f'**Body** (`{kind}`)', '', *_content(body['schema'], document), '']
    answers = route['responses']
    for kind, answer in answers['200'].get('content', {}).items():
        lines += [f'**Answer** (`{kind}`)', '', *_content(answer.get('schema', {}), document), '']
    lines += [f'**Errors:** {", ".join(sorted(status for status in answers if status != "200"))}', '']
    return '\n'.join([*lines, ''])


def _content(schema: Schema, document: Schema) -> list[str]:
    """Return what a body contains: its accepted texts or its fields."""
    if 'enum' in schema:
        return [' or '.join(f'`{value}`' for value in schema['enum'])]
    if 'examples' in schema:
        return ['For example ' + ', '.join(f'`{value}`' for value in schema['examples'])]
    name = schema.get('$ref', '').rpartition('/')[2]
    if name and not name.startswith('Body_'):
        return [_type(schema)]
    return _fields(document['components']['schemas'][name] if name else schema)


def _fields(schema: Schema, indent: str = '') -> list[str]:
    """Return a list of an object's fields, with the fields of the objects in it below them."""
    required = schema.get('required', ())
    lines = []
    for name, field in schema.get('properties', {}).items():
        kind = ', '.join(filter(None, [_type(field), '' if name in required else 'optional']))
        meaning = f': {field["description"]}' if field.get('description') else ''
        lines += [f'{indent}- `{name}` ({kind}){meaning}', *_fields(field.get('items') or field, f'{indent}    ')]
    return lines


def _type(schema: Schema) -> str:
    """Return the type of a value; that of an object with a name is a link to its section."""
    if '$ref' in schema:
        name = schema['$ref'].rpartition('/')[2]
        return f'[{name}](#{name.lower()})'
    if 'anyOf' in schema:
        return ' or '.join(_type(option) for option in schema['anyOf'])
    if schema.get('type') == 'array':
        return f'list of {_type(schema["items"])}' if schema.get('items') else 'list'
    kind = schema.get('type', '')
    return kind if isinstance(kind, str) else ' or '.join(kind)


def _objects(document: Schema) -> list[str]:
    """Return a section for each object that bodies and answers refer to."""
    lines = ['## Objects', '']
    for name, schema in document['components']['schemas'].items():
        if not name.startswith('Body_'):
            lines += [f'### {name}', '', schema.get('description', ''), '', *_fields(schema), '']
            lines += [' or '.join(f'`{value}`' for value in schema.get('enum', ())), '']
    return lines


def _prose(description: str) -> str:
    """Return a docstring as Markdown, with its `curl` lines as code; learning_loop_node's name various hosts there."""
    text = re.sub(r'^Example Usage$', '', inspect.cleandoc(description), flags=re.M)
    text = re.sub(r'http://(hosturl|localhost(:\d+)?)/', 'localhost:8004/', text)
    return re.sub(r'(^ *curl .*\n?)+', lambda match: _shell(match[0]), text, flags=re.M)


def _shell(lines: str) -> str:
    return '\n'.join(['', '```bash', *(line.strip() for line in lines.splitlines()), '```', ''])


_REST_HEAD: Final = """# REST

A running node shows the same routes at `/docs` and as an OpenAPI document at `/openapi.json`. Error answers are JSON
objects whose field `detail` says what to change; see [Errors](errors.md). These routes are for browsers and are not
part of the document: `GET /ui` ([the page](../how-to/page.md)), `GET /login`, `POST /login` and `POST /logout`
([tokens](../how-to/security.md#require-a-token)). `GET /` answers like `GET /health`.
"""


# ---------------------------------------------------------------- Socket.IO events


def events_page() -> str:
    """Return every Socket.IO event with its payload and its answer, from the docstring of its handler."""
    return '\n'.join([_EVENTS_HEAD, *(_event(name, handler) for name, handler in EVENTS.items())])


def _event(name: str, handler: Callable[..., Any]) -> str:
    text, *fields = re.split(r'^:(?=param payload:|return:)', inspect.getdoc(handler) or '', flags=re.M)
    found = dict(field.split(':', 1) for field in fields)
    lines = [f'## `{name}`', '', text.strip(), '']
    lines += [f'**Payload:** {_joined(found.get("param payload", "none."))}', '']
    lines += [f'**Answer:** {_joined(found["return"])}', '']
    return '\n'.join(lines)


def _joined(text: str) -> str:
    return ' '.join(text.split())


_EVENTS_HEAD: Final = """# Socket.IO events

Clients connect to the path `/ws/socket.io` on the node's port. The node answers every event; an error is an object
`{'error': …}`.

An `image` in a payload is either `{'bytes': …, 'dtype': 'uint8', 'shape': (height, width, 3)}`, RGB in C order, or
`{'format': 'jpeg', 'bytes': …}`. A message may have up to `MAX_FRAME_MIB`.
"""


# ---------------------------------------------------------------- errors


def errors_page() -> str:
    """Return the tree of errors and a table of their statuses."""
    tree = inspect.cleandoc(detector.errors.__doc__ or '')
    rows = [
        f'| {error.status.value} | `{error.__name__}` | {_meaning(error, tree)} |'
        for error in sorted(all_errors(), key=lambda error: (error.status, error.__name__))
    ]
    return '\n'.join([_ERRORS_HEAD, '| status | error | meaning |', '|---|---|---|', *rows, ''])


def all_errors(base: type[WholebodyError] = WholebodyError) -> Iterator[type[WholebodyError]]:
    """Yield the subclasses of an error in `detector.errors`."""
    for error in base.__subclasses__():
        if error.__module__ == detector.errors.__name__:
            yield error
            yield from all_errors(error)


def _meaning(error: type[WholebodyError], tree: str) -> str:
    """Return what the tree says of an error; a line that begins with an ellipsis continues that of the parent."""
    match = re.search(rf'\b{error.__name__} +\d{{3}} +(.+)', tree)
    if match is None:
        raise LookupError(f'the docstring of detector.errors does not explain {error.__name__}')
    text = match[1]
    return text if not text.startswith('…') else f'{_meaning(error.__base__, tree)} {text}'  # type: ignore[arg-type]


_ERRORS_HEAD: Final = """# Errors

REST answers an error with its status and a JSON object whose field `detail` says what to change. Socket.IO answers
`{'error': …}` with the same text. With status 503, the header `Retry-After` says when to try again.
[Limit the load](../how-to/limits.md) lists the limits behind 408, 413, 503 and 507. Status 500 is a fault of the node;
its log has the reason under the request id of the answer.
"""


# ---------------------------------------------------------------- metrics


def collected_metrics() -> list[Metric]:
    """Return the metrics of a node that has answered requests with each outcome, so that each label occurs."""
    with a_node() as node:
        for status in (200, 422, 500):
            context = RequestContext(request_id='example')
            node.parts.metrics.request_ended('/detect', context, status=status, seconds=0.1)
        return list(node.parts.metrics.registry.collect())


def metrics_page(metrics: Iterable[Metric]) -> str:
    """Return a table of metrics: name as in a query, meaning, type and labels."""
    rows = [
        f'| `{query_name(metric)}` | {metric.documentation}<br>{metric.type.capitalize()}{_labels(metric)}. |'
        for metric in sorted(metrics, key=lambda metric: metric.name)
    ]
    return '\n'.join([_METRICS_HEAD, '| metric | meaning |', '|---|---|', *rows, ''])


def query_name(metric: Metric) -> str:
    """Return the name under which a query finds a metric, without the suffixes of a histogram."""
    return metric.name + {'counter': '_total', 'info': '_info'}.get(metric.type, '')


def _labels(metric: Metric) -> str:
    """Return the labels of a metric with their values; routes are too many to list."""
    values: dict[str, dict[str, None]] = {}
    for sample in metric.samples:
        for label, value in sample.labels.items():
            values.setdefault(label, {})[f'`{value}`'] = None
    values.pop('le', None)
    shown = [f'`{label}`' + ('' if label == 'route' else f' ({", ".join(values[label])})') for label in values]
    return f' with {", ".join(shown)}' if shown else ''


_METRICS_HEAD: Final = """# Metrics

`GET /metrics` answers with these metrics for Prometheus. All times are seconds. A histogram has the suffixes `_bucket`,
`_count` and `_sum`. [Operate a node](../how-to/operate.md#metrics) explains how to read them.
"""


# ---------------------------------------------------------------- Python API


def python_page() -> str:
    """Return directives for mkdocstrings: one for each public name, in the order of `detector.__all__`."""
    return '\n'.join([_PYTHON_HEAD, *(f'::: detector.{name}\n' for name in detector.__all__ if name != '__version__')])


_PYTHON_HEAD: Final = """# Python API

These names can be imported from `detector`. `import detector` is fast: a name is loaded when it is first used.

```python
from detector import PoseEngine, installed_package, open_package, read_image

engine = PoseEngine(open_package(installed_package()))
for pose in engine.poses(read_image('photo.jpg')):
    print(pose.box, pose.box_confidence, pose.keypoints.shape)
```

`detector.__version__` is the version of this project.
"""


@contextmanager
def a_node() -> Iterator[WholebodyNode]:
    """Provide a node that is not started, and restore the environment that it changes for learning_loop_node."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ):
        yield WholebodyNode(Settings(data_folder=Path(folder), _env_file=None))
