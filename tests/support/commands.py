"""Run commands of a Typer app in this process."""

from typing import Any

import typer
from typer.testing import CliRunner, Result


def invoke(app: typer.Typer, *arguments: Any) -> Result:
    """Run a command that may fail."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(app: typer.Typer, *arguments: Any) -> str:
    """Run a command that must succeed, and return its output."""
    result = invoke(app, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout
