"""Helpers of the commands for labeling projects."""

import pytest
import typer

from detector.cli.labelstudio.common import resumable


def test_ctrl_c_says_that_a_second_run_continues(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends a command with the status of a shell and says that the next run continues."""
    with pytest.raises(typer.Exit) as ended, resumable():
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == 'stopped; run the command again: it continues with what is left\n'
