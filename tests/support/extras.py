"""Python environments without an extra."""

from pathlib import Path


def without_nicegui(folder: Path) -> Path:
    """Return a folder for PYTHONPATH that hides NiceGUI from Python."""
    (folder / 'sitecustomize.py').write_text("import sys; sys.modules['nicegui'] = None")
    return folder
