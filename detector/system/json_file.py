"""Small JSON files that only this project writes, and that anything may have happened to since."""

import json
import stat
from pathlib import Path
from typing import Any, Final

from .durable import replace_file

MAX_BYTES: Final = 4 * 1024**2
"""Size above which a file is not read, in bytes."""


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a file.

    :return: None if the file does not exist, cannot be read, or holds anything else.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return None
        content = json.loads(path.read_bytes())
        json.dumps(content, ensure_ascii=False).encode()  # no lone surrogates, which cannot be sent
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_object(path: Path, content: dict[str, Any]) -> None:
    """Replace a file in one step. Its folder is created if it is missing.

    :raises OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(content).encode())
