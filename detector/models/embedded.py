"""Where the files that ship with the project lie: the embedded model and an example card."""

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent.parent
MODEL_FILES: Final = next(
    folder for folder in (_PACKAGE / 'model_files', _PACKAGE.parent / 'model_files') if folder.is_dir()
)
"""Inside the package in a wheel, beside it in a checkout."""
EMBEDDED_PACKAGE: Final = MODEL_FILES / 'test-card.zip'
EXAMPLE_CARD: Final = MODEL_FILES / 'test-card.jpg'
CATALOGUE: Final = MODEL_FILES / 'catalogue.json'
"""The published models: addresses, sizes, colour orders, and hashes where they are known."""
EMBEDDED_NAME: Final = 'test-card'

EMBEDDED_NOTICE: Final = (
    'This is the embedded test card model: it reads test cards and finds nobody in a photograph. For real poses: '
    'wholebody model pull balanced (or lightweight, performance), or pack ONNX files of your own with '
    'wholebody model pack and wholebody model install; then restart the node'
)
