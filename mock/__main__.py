"""`python -m mock` is the mock Learning Loop."""

from mock.loop.commands import app

app(prog_name='python -m mock')
