"""Small YOLO datasets as other programs write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

SIZE = (200, 100)


def person_line(*, third: Sequence[object] = 17 * (2,), kind: object = 0, extra: str = '') -> str:
    """Make the line of a person with 17 keypoints, number n at 0.3 + 0.02 n of both sides."""
    points = ' '.join(f'{0.3 + 0.02 * n:.2f} {0.3 + 0.02 * n:.2f} {flag}' for n, flag in enumerate(third))
    return f'{kind} 0.5 0.5 0.4 0.6 {points}{extra}\n'


def make_folder(folder: Path, labels: dict[str, str | bytes], *, file: str = 'data.yaml', **data: Any) -> Path:
    """Make a dataset with the label files of a split `train`, and an image for each."""
    (folder / 'images' / 'train').mkdir(parents=True)
    (folder / 'labels' / 'train').mkdir(parents=True)
    content = {'path': '.', 'train': 'images/train', 'val': 'images/val', 'kpt_shape': [17, 3], 'names': {0: 'person'}}
    (folder / file).write_text(yaml.safe_dump(content | data))
    for name, text in labels.items():
        Image.new('RGB', SIZE).save(folder / 'images' / 'train' / f'{name}.jpg')
        content_bytes = text if isinstance(text, bytes) else text.encode()
        (folder / 'labels' / 'train' / f'{name}.txt').write_bytes(content_bytes)
    return folder
