"""JSON files on this disk, to which anything may have happened since they were written."""

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
        content = None if fault_of(path, MAX_BYTES) else parse(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def fault_of(path: Path, max_bytes: int) -> str | None:
    """Return why a file cannot be read to its end: it is a pipe or a folder, or it is too large.

    :return: phrase that follows the name of the file; None if it can be read.
    :raises OSError: the file does not exist, or the disk does not say.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return 'is not a file'
    return f'is larger than {max_bytes} bytes' if status.st_size > max_bytes else None


def parse(content: bytes) -> Any:
    """Return the value of a JSON text.

    :raises ValueError: it is not JSON, or it contains a lone surrogate, which cannot be sent to any client.
    :raises RecursionError: it is nested too deeply.
    """
    found = json.loads(content)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def write_object(path: Path, content: dict[str, Any]) -> None:
    """Replace a file in one step. Its folder is created if it is missing.

    :raises OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(content).encode())
