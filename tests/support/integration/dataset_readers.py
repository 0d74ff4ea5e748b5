"""Readers of other projects for our datasets. Each runs in its own environment."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.support.environments import python_with

_ULTRALYTICS = """
import importlib.metadata, json, sys, types
from pathlib import Path
from unittest.mock import MagicMock

# torch takes gigabytes, and the reader of labels does not need it
version = importlib.metadata.version
importlib.metadata.version = lambda name: '0.18.0' if name.startswith('torch') else version(name)
torch = ('torch', 'torch.nn', 'torch.nn.functional', 'torch.distributed', 'torch.utils', 'torch.utils.data')
for name in (*torch, 'torchvision', 'ultralytics.nn', 'ultralytics.nn.autobackend'):
    sys.modules[name] = MagicMock(__version__='2.3.0', __path__=[], __spec__=None)
import ultralytics
sys.modules['ultralytics.data'] = package = types.ModuleType('ultralytics.data')
package.__path__ = [str(Path(ultralytics.__file__).parent / 'data')]
from ultralytics.data.utils import img2label_paths, verify_image_label
from ultralytics.utils import YAML

data = YAML.load(sys.argv[1])
count, dimensions = data['kpt_shape']
found = {}
for split in ('train', 'val'):
    images = sorted(str(path) for path in (Path(data['path']) / data[split]).iterdir())
    for image, label in zip(images, img2label_paths(images)):
        checked = verify_image_label((image, label, '', True, len(data['names']), count, dimensions, False))
        _, boxes, (height, width), _, points, missing, *_, message = checked
        assert not message and not missing, message
        scale = [width, height, width, height]
        found[Path(image).name] = [
            {'box': (box[1:] * scale).tolist(), 'points': (shares * [width, height, 1]).tolist()}
            for box, shares in zip(boxes, points)
        ]
print(json.dumps(found))
"""
_FIFTYONE = """
import json, sys
from pathlib import Path

from bson import json_util
import fiftyone as fo
import fiftyone.core.odm as foo

folder = Path(sys.argv[1])
samples, metadata = (json_util.loads((folder / f'{name}.json').read_text()) for name in ('samples', 'metadata'))
document = foo.DatasetDocument.from_dict(metadata)
names = {field.name for field in document.sample_fields}
found = {}
for entry in samples['samples']:
    sample = fo.Sample.from_dict(entry)
    assert set(sample.field_names) <= names | {'created_at', 'last_modified_at'}, sample.field_names
    sample.detections.validate(), sample.keypoints.validate()
    width, height = sample.metadata.width, sample.metadata.height
    keypoints = {keypoint.index: keypoint for keypoint in sample.keypoints.keypoints}
    found[sample.file_name] = []
    for detection in sample.detections.detections:
        x, y, w, h = detection.bounding_box
        keypoint = keypoints.get(detection.index)
        points = [] if keypoint is None else [
            [px * width if v else 0, py * height if v else 0, v]
            for (px, py), v in zip(keypoint.points, keypoint.visibility, strict=True)
        ]
        box = [(x + w / 2) * width, (y + h / 2) * height, w * width, h * height]
        found[sample.file_name].append({'box': box, 'points': points})
print(json.dumps([document.default_skeleton.labels, found]))
"""

Persons = dict[str, list[dict[str, Any]]]
"""Persons by file name. A person has `box` (centre and size) and `points` (x, y, visibility), in pixels."""


def read_by_ultralytics(data: Path) -> Persons:
    """Return the persons that ultralytics' trainer reads from a `data.yaml`, with the trainer's own checks."""
    # its light requirements, but not torch
    small = 'numpy pillow opencv-python-headless pyyaml requests urllib3 idna certifi charset-normalizer psutil'
    python = python_with('ultralytics-8.3.228-labels', '--no-deps', 'ultralytics==8.3.228', *small.split())
    found: Persons = _run(python, _ULTRALYTICS, data, YOLO_OFFLINE='true', YOLO_CONFIG_DIR=data.parent.parent)
    return found


def read_by_fiftyone(folder: Path) -> tuple[list[str], Persons]:
    """Return the names of the default skeleton and the persons, read by FiftyOne's classes without its database."""
    python = python_with('fiftyone-1.8', 'fiftyone==1.8.0')
    home = folder.parent / 'home'
    home.mkdir()
    names, found = _run(python, _FIFTYONE, folder, HOME=home, FIFTYONE_DO_NOT_TRACK='true')
    return names, found


def _run(python: Path, script: str, argument: Path, **variables: Any) -> Any:
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        [python, '-c', script, argument], check=False, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
