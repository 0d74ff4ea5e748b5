"""The generated reference names everything that the code offers."""

import inspect
import re
from collections.abc import Iterator

import pytest
import typer
from fastapi.routing import iter_route_contexts
from learning_loop_node.enums import OperationMode, OutboxMode

import detector
import detector.errors
from benchmarks.support.processes import PROJECT
from detector.api.events import EVENTS
from detector.cli.main import app
from detector.errors import WholebodyError
from detector.settings import Settings, environment_name
from docs import reference_pages
from mock.loop.commands import app as mock_app


@pytest.fixture(scope='module')
def pages() -> dict[str, str]:
    """Generate the pages, by their names."""
    return {
        path.removeprefix('reference/').removesuffix('.md'): text
        for path, text in reference_pages.reference_pages().items()
    }


def test_every_setting_has_a_row_with_its_default_and_its_description(pages: dict[str, str]) -> None:
    """Each setting has a row with its variable, description, default and values."""
    rows = re.findall(r'^\| `.*$', pages['settings'], re.MULTILINE)
    assert len(rows) == len(Settings.model_fields)
    for row, (field, info) in zip(rows, Settings.model_fields.items(), strict=True):
        assert info.description
        assert row.startswith(f'| `{environment_name(field)}`')
        assert f'| {info.description}<br>Default: ' in row
    shown = dict(row.strip('| ').split(' | ', 1) for row in rows)
    assert shown['`KEEP_MODELS`'].endswith('<br>Default: `3`. Values: whole number ≥ 1.')
    assert shown['`LOOP_HOST` or `HOST`'].endswith('<br>Default: unset. Values: text.')
    assert shown['`PRECISION`'].endswith('<br>Default: `auto`. Values: `auto`, `f32`, `bf16`, `f16`.')


def test_every_group_of_settings_begins_with_a_setting(pages: dict[str, str]) -> None:
    """Each group begins with an existing setting, and the first group with the first setting."""
    assert set(reference_pages.GROUPS) <= set(Settings.model_fields)
    assert next(iter(reference_pages.GROUPS)) == next(iter(Settings.model_fields))
    for heading in reference_pages.GROUPS.values():
        assert f'\n## {heading}\n' in pages['settings']


def test_the_example_environment_names_real_settings() -> None:
    """Each line of .env.example is a setting."""
    lines = (PROJECT / '.env.example').read_text().splitlines()
    names = {line.partition('=')[0] for line in lines if line and not line.startswith('#')}
    assert names
    assert names <= {environment_name(field) for field in Settings.model_fields}


def _commands(group: typer.Typer, prefix: str) -> Iterator[str]:
    for command in group.registered_commands:
        yield f'{prefix} {command.name or (command.callback.__name__ if command.callback else "")}'
    for nested in group.registered_groups:
        assert nested.typer_instance is not None
        yield from _commands(nested.typer_instance, f'{prefix} {nested.name}')


def test_every_command_has_a_section_with_its_options(pages: dict[str, str]) -> None:
    """Each command and subcommand has a section, with its options."""
    commands = [*_commands(app, 'wholebody'), *_commands(mock_app, 'wholebody mock-loop')]
    assert {'wholebody serve', 'wholebody model pack', 'wholebody mock-loop fault'} <= set(commands)
    headings = [line.lstrip('#').strip() for line in pages['command-line'].splitlines() if line.startswith('#')]
    for command in commands:
        assert f'`{command}`' in headings
    section = pages['command-line'].partition('`wholebody model pack`\n')[2].partition('\n#')[0]
    assert '`--score-mapping <' in section


def test_every_route_has_a_section(pages: dict[str, str]) -> None:
    """Each documented route has a section by method and path, and the page names modes, types and statuses."""
    with reference_pages.a_node() as node:
        routes = [
            context for context in iter_route_contexts(node.routes) if getattr(context, 'include_in_schema', False)
        ]
    described = [(method, context.path) for context in routes for method in context.methods or ()]
    assert len(described) == 24
    for method, path in described:
        assert f'### `{method} {path}`\n' in pages['rest']
    for mode in [*OperationMode, *OutboxMode]:
        assert mode == 'startup' or f'`{mode.value}`' in pages['rest']
    assert '[ImageMetadata](#imagemetadata)' in pages['rest'].partition('`POST /detect`')[2].partition('###')[0]
    assert '\n- `point_detections` (list of [PointDetection](#pointdetection)' in pages['rest']
    assert '|  |' not in pages['rest']  # each parameter has a meaning
    for status in (401, 403, 408, 409, 413, 415, 422, 502, 503, 507):
        assert f'\n| {status} | ' in pages['rest']


def test_every_event_has_a_section_with_payload_and_answer(pages: dict[str, str]) -> None:
    """A handler that reads a payload describes it, and every handler describes its answer."""
    for event, handler in EVENTS.items():
        section = pages['events'].partition(f'## `{event}`\n')[2].partition('\n## ')[0]
        takes_payload = 'payload' in inspect.signature(handler).parameters
        assert ('**Payload:** none.' not in section) is takes_payload, event
        assert '**Answer:** ' in section, event


def test_every_error_has_a_row_with_its_status(pages: dict[str, str]) -> None:
    """The docstring of detector.errors draws each class; the page has its status and its meaning."""
    errors = list(reference_pages.all_errors())
    assert len(errors) > 20
    for error in errors:
        assert error.__name__ in str(detector.errors.__doc__)
        assert f'\n| {error.status.value} | `{error.__name__}` | ' in pages['errors']


def test_an_error_that_the_tree_lacks_fails_the_page() -> None:
    """A new class needs a line in the docstring of detector.errors."""
    newcomer = type('Newcomer', (WholebodyError,), {'__module__': 'detector.errors'})
    assert newcomer in reference_pages.all_errors()
    with pytest.raises(LookupError, match='does not explain Newcomer'):
        reference_pages.errors_page()
    newcomer.__module__ = __name__  # the class continues to exist, and other tests must not find it


def test_every_public_name_is_in_the_python_api(pages: dict[str, str]) -> None:
    """The page names each public object; mkdocstrings adds the docstrings when the site is built."""
    names = re.findall(r'^::: detector\.(\w+)$', pages['python'], re.MULTILINE)
    assert ['__version__', *names] == detector.__all__


def test_metrics_have_their_labels_and_types(pages: dict[str, str]) -> None:
    """Each metric has a row with its labels and type; `tests/deploy/test_monitoring.py` compares the names."""
    rows = dict(re.findall(r'^\| `(\w+)` \| .*<br>(.*) \|$', pages['metrics'], re.MULTILINE))
    assert rows['wholebody_requests_total'] == 'Counter with `route`, `outcome` (`ok`, `refused`, `failed`).'
    assert '`queue_full`' in rows['wholebody_refused_total']
    assert rows['wholebody_inference_seconds'] == 'Histogram.'
