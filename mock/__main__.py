"""Makes `python -m mock` the command of the mock Learning Loop."""

from mock.loop.commands import app

app(prog_name='python -m mock')
