"""`python -m detector` is the command `wholebody`."""

from .cli import main

main()
