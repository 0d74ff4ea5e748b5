"""Default address and content of a mock Learning Loop."""

from typing import Final

DEFAULT_PORT: Final = 5005
DEFAULT_URL: Final = f'http://127.0.0.1:{DEFAULT_PORT}'

ORGANIZATION: Final = 'zauberzeug'
PROJECT: Final = 'wholebody'
VERSION: Final = '1.0'
"""Version of the test card model in a new mock."""
