"""The weights of the starter's person detector."""

from pathlib import Path
from typing import Final

import detector

WEIGHTS: Final = Path(detector.__file__).parent / 'models/starter/person_detector.onnx'
