"""Where the files that ship with the project lie: the embedded model and an example card."""

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent
MODEL_FILES: Final = next(
    folder for folder in (_PACKAGE / 'model_files', _PACKAGE.parent / 'model_files') if folder.is_dir()
)
"""Inside the package in a wheel, beside it in a checkout."""
EMBEDDED_PACKAGE: Final = MODEL_FILES / 'test-card.zip'
EXAMPLE_CARD: Final = MODEL_FILES / 'test-card.jpg'
EMBEDDED_NAME: Final = 'test-card'

EMBEDDED_NOTICE: Final = (
    'This is the embedded test card model: it reads test cards and finds nobody in a photograph. For real poses '
    'export or download a YOLOX person detector and an RTMW pose estimator as ONNX files (rtmlib names the published '
    'ones in Wholebody.MODE), then: wholebody model pack --det det.onnx --pose pose.onnx -o wholebody.zip; '
    'wholebody model install wholebody.zip'
)
