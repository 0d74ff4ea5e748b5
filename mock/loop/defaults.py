"""Where a mock Learning Loop is and what is in it, unless said otherwise."""

from typing import Final

DEFAULT_PORT: Final = 5005
DEFAULT_URL: Final = f'http://127.0.0.1:{DEFAULT_PORT}'

ORGANIZATION: Final = 'zauberzeug'
PROJECT: Final = 'wholebody'
VERSION: Final = '1.0'
"""Of the test card model that a new mock starts with."""
