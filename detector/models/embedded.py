"""Paths of the files that ship with the project: the embedded model, an example card and the catalogue of models."""

from pathlib import Path
from typing import Final, Literal

_PACKAGE: Final = Path(__file__).parent.parent
MODEL_FILES: Final = next(
    folder for folder in (_PACKAGE / 'model_files', _PACKAGE.parent / 'model_files') if folder.is_dir()
)
"""Folder of these files: inside the package in a wheel, beside it in a checkout."""
EMBEDDED_PACKAGE: Final = MODEL_FILES / 'test-card.zip'
EXAMPLE_CARD: Final = MODEL_FILES / 'test-card.jpg'
CATALOGUE: Final = MODEL_FILES / 'catalogue.json'
"""Catalogue of the published models: addresses, input sizes, colour orders, and hashes if known."""
Mode = Literal['lightweight', 'balanced', 'performance']
"""Name of a published model in the catalogue."""
EMBEDDED_NAME: Final = 'test-card'

EMBEDDED_NOTICE: Final = (
    'The embedded test card model is active: it reads test cards and finds no person in a photograph. For real poses, '
    'run `wholebody model pull balanced` (or lightweight, performance), or pack your own ONNX files with '
    '`wholebody model pack` and `wholebody model install`; then restart the node'
)
