"""Untrusted input: JSON of any form, documents with a few faults, files with a few wrong bytes."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

HUGE = (10**400, -(10**400), 2**63, 2**31, 1e308, -1e308)
"""Numbers that overflow some number type."""

TEXTS = st.text(max_size=12) | st.sampled_from(['', ' ', '\ud800', '\x00', '../x', 'a' * 5000, '9' * 5000, 'NaN'])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(HUGE) | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
"""All values that `json.loads` may return, including infinite numbers and unpaired surrogates."""


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """Draw a JSON document with one to three values replaced, removed or doubled."""
    root = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw_place(draw, root)
        match draw(st.sampled_from(['replace', 'remove', 'double'])):
            case 'remove' if container is not root:
                del container[key]
            case 'double' if isinstance(container, list) and container is not root:
                container.append(copy.deepcopy(container[key]))
            case _:
                container[key] = draw(JSON)
    return root[0]


def draw_place(draw: st.DrawFn, root: list[Any]) -> tuple[Any, Any]:
    """Draw a container and one of its keys, at any depth; long lists do not outweigh the rest."""
    container: Any = root
    key: Any = 0
    while isinstance(container[key], dict | list) and container[key] and draw(st.integers(0, 5)):
        container = container[key]
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        key = draw(st.sampled_from(keys))
    return container, key


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a file with some bytes changed, missing or repeated; it may end early."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        start = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(['flip', 'write', 'remove', 'insert', 'cut'])):
            case 'flip':
                data[start] ^= 1 << draw(st.integers(0, 7))
            case 'write':
                new = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b'\xff' * 4, b'\0' * 4, b'\x7f\xff']))
                data[start : start + len(new)] = new
            case 'remove':
                del data[start : start + draw(st.integers(1, 64))]
            case 'insert':
                data[start:start] = draw(st.binary(max_size=8)) or bytes(data[start : start + 16])
            case 'cut' if draw(st.booleans()):
                del data[start:]
    return bytes(data)


def as_file(read: Callable[[Path], object], content: bytes | Any, *, name: str = 'file.json') -> object:
    """Write content to a file, as JSON unless it is bytes, and let a reader read it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return read(path)


BOX = {'category_name': 'person', 'x': 1.5, 'y': 2, 'width': 3, 'height': 4, 'model_name': '1.0', 'confidence': 0.5}


POINT = {'category_name': 'nose', 'x': 1.5, 'y': 2, 'model_name': '1.0', 'confidence': 0.5}


METADATA = {
    'box_detections': [BOX],
    'point_detections': [POINT],
    'box_annotations': [{'category_name': 'person', 'x': 1, 'y': 2, 'width': 3, 'height': 4}],
    'point_annotations': [{'category_name': 'left_eye', 'x': 1, 'y': 2}],
    'classification_detections': [{'category_name': 'cat', 'model_name': '1', 'confidence': 1, 'category_id': 'x'}],
    'segmentation_detections': [],
    'tags': ['a', 'b'],
    'creation_date': '2026-01-31T12:00:00',
    'source': 'robot',
}
