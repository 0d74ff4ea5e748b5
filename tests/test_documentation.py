"""README, settings, routes, events and commands are held together."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest
import typer
from learning_loop_node.enums import OperationMode

from benchmarks.support.processes import PROJECT
from detector.api.events import EVENTS
from detector.cli.main import app
from detector.errors import WholebodyError
from detector.settings import Settings, environment_name, settings_table

README = (PROJECT / 'README.md').read_text()


def test_every_setting_is_in_the_readme_as_the_code_has_it() -> None:
    """The table is the output of the code; `python -m detector.settings` renews it."""
    assert settings_table() in README
    for field, info in Settings.model_fields.items():
        assert info.description, field
        assert f'`{environment_name(field)}`' in README


def test_the_example_environment_names_real_settings() -> None:
    """Each line of .env.example is a setting."""
    lines = (PROJECT / '.env.example').read_text().splitlines()
    names = {line.partition('=')[0] for line in lines if line and not line.startswith('#')}
    assert names
    assert names <= {environment_name(field) for field in Settings.model_fields}


def test_every_route_is_in_the_readme(tmp_path: Path) -> None:
    """Method and path, as the running app's OpenAPI description lists them."""
    from detector.node.wholebody_node import WholebodyNode

    with patch.dict(os.environ):  # which a node rewrites for upstream
        listed = WholebodyNode(Settings(data_folder=tmp_path)).openapi()['paths']
    assert len(listed) == 21
    for path, methods in listed.items():
        for method in methods:
            assert f'`{method.upper()} {path}`' in README or f'`{path}`' in README, f'{method.upper()} {path}'
    for route in ('`GET /health`', '`GET /ready`', '`POST /detect`', '`POST /poses`', '`GET /about`'):
        assert route in README
    for mode in OperationMode:
        assert mode == 'startup' or f'`{mode.value}`' in README


def test_every_event_is_in_the_readme() -> None:
    """As it is registered."""
    for event in EVENTS:
        assert f'`{event}`' in README


def _commands(group: typer.Typer, prefix: str) -> list[str]:
    names = [
        f'{prefix} {command.name or (command.callback.__name__ if command.callback else "")}'
        for command in group.registered_commands
    ]
    for nested in group.registered_groups:
        assert nested.typer_instance is not None
        names += _commands(nested.typer_instance, f'{prefix} {nested.name}')
    return names


def test_every_command_is_in_the_readme() -> None:
    """Subcommands too."""
    commands = _commands(app, 'wholebody')
    assert {'wholebody serve', 'wholebody model pack'} <= set(commands)
    for command in commands:
        assert f'`{command}`' in README, command


def _errors(base: type[WholebodyError]) -> list[type[WholebodyError]]:
    return [base, *(error for child in base.__subclasses__() for error in _errors(child))]


@pytest.mark.parametrize('error', _errors(WholebodyError))
def test_every_error_is_in_the_tree_and_its_status_in_the_readme(error: type[WholebodyError]) -> None:
    """The docstring of errors.py draws every class of it; the README lists every 4xx and the 503."""
    import detector.errors

    if error.__module__ == 'detector.errors':
        assert error.__name__ in str(detector.errors.__doc__)
    if error.status < 500 or error.status == 503:
        assert f'| {error.status.value} |' in README


def test_the_readme_opens_with_the_two_commands() -> None:
    """Whoever opens it sees them first."""
    head = README[: README.index('##')]
    assert head.index('uv run wholebody serve') < head.index('uv run pytest')
