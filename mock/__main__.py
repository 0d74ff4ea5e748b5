"""`python -m mock` is the mock Learning Loop."""

from .loop_commands import app

app(prog_name='python -m mock')
