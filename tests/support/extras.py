"""Python environments without an extra."""

from pathlib import Path


def without_nicegui(folder: Path) -> Path:
    """A folder for PYTHONPATH in which Python finds no NiceGUI."""
    (folder / 'sitecustomize.py').write_text("import sys; sys.modules['nicegui'] = None")
    return folder
