"""tflite files are read with their published schema."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tflite

from detector.errors import StarterUnavailable
from detector.models.starter import tflite_file
from detector.models.starter.sources import HAND, POSE_DETECTOR, read_network
from detector.models.starter.tflite_file import read_tflite
from tests.support.starter import needs_starter


@needs_starter
def test_weights_are_read_in_their_precision() -> None:
    """The hand network stores its weights in float16, behind DEQUANTIZE operators that are dissolved."""
    file = read_tflite(read_network(HAND))
    assert file.shapes[file.input] == (1, 224, 224, 3)
    assert [file.shapes[number] for number in file.outputs[:2]] == [(1, 63), (1, 1)]
    weights = [value for value in file.constants.values() if value.ndim == 4]
    assert len(weights) > 40
    assert {value.dtype for value in weights} == {np.dtype(np.float16)}
    assert not {'DEQUANTIZE', 'DENSIFY'} & {operator.name for operator in file.operators}


@needs_starter
def test_sparse_weights_are_unpacked() -> None:
    """The pose detector stores most weights of 1×1 convolutions sparsely: they come out dense, and mostly zero."""
    file = read_tflite(read_network(POSE_DETECTOR))
    kernels = [file.constants[op.inputs[1]] for op in file.operators if op.name == 'CONV_2D']
    sparse = [kernel for kernel in kernels if (kernel == 0).mean() > 0.5]
    assert len(sparse) == 38
    assert all(np.isfinite(kernel).all() and kernel.any() for kernel in sparse)


class _Vector:
    def __init__(self, values: list[int]) -> None:
        self.Bytes, self.Pos = values, 0


def _sparse(shape: tuple[int, ...], levels: list[Any], values: np.ndarray, **changes: Any) -> tuple[Any, Any]:
    """Return stand-ins for a sparse tensor and its model; a level is a size, or (segments, indices)."""

    def level(content: Any) -> Any:
        if isinstance(content, int):
            return SimpleNamespace(Format=lambda: tflite.DimensionType.DENSE)
        segments, indices = content
        return SimpleNamespace(
            Format=lambda: tflite.DimensionType.SPARSE_CSR,
            ArraySegments=lambda: _Vector(segments),
            ArraySegmentsType=lambda: 0,
            ArrayIndices=lambda: _Vector(indices),
            ArrayIndicesType=lambda: 0,
        )

    sparsity = SimpleNamespace(
        TraversalOrderAsNumpy=lambda: np.array(changes.get('order', range(len(shape)))),
        BlockMapLength=lambda: changes.get('blocks', 0),
        DimMetadata=lambda axis: level(levels[axis]),
    )
    tensor = SimpleNamespace(
        Sparsity=lambda: sparsity,
        ShapeAsNumpy=lambda: np.array(shape),
        ShapeLength=lambda: len(shape),
        Type=lambda: tflite.TensorType.FLOAT32,
        Buffer=lambda: 0,
        Name=lambda: b'weights',
    )
    buffer = SimpleNamespace(DataAsNumpy=lambda: np.frombuffer(values.astype('<f4').tobytes(), np.uint8))
    return tensor, SimpleNamespace(Buffers=lambda number: buffer)


@pytest.fixture
def _plain_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_file, '_indices', lambda vector, kind: np.array(vector.Bytes, dtype=np.int64))


@pytest.mark.usefixtures('_plain_indices')
@pytest.mark.parametrize(
    ('levels', 'order'),
    [
        ([3, ([0, 2, 2, 3], [1, 3, 0])], [(0, 1), (0, 3), (2, 0)]),  # compressed rows
        ([([0, 2], [0, 2]), ([0, 1, 3], [3, 0, 1])], [(0, 3), (2, 0), (2, 1)]),  # rows without values are left out
        ([([0, 2], [0, 2]), 4], [(0, 0), (0, 1), (0, 2), (0, 3), (2, 0), (2, 1), (2, 2), (2, 3)]),  # whole rows
    ],
)
def test_every_mix_of_dense_and_sparse_dimensions_is_unpacked(levels: list[Any], order: list[tuple[int, int]]) -> None:
    """The values of a 3×4 matrix land at the places that the format assigns to them."""
    values = np.arange(1, len(order) + 1, dtype=np.float32)
    expected = np.zeros((3, 4), dtype=np.float32)
    for value, place in zip(values, order, strict=True):
        expected[place] = value
    np.testing.assert_array_equal(tflite_file._dense(*_sparse((3, 4), levels, values)), expected)


@pytest.mark.parametrize('changes', [{'order': [1, 0]}, {'blocks': 1}])
def test_unknown_sparse_forms_are_refused(changes: dict[str, Any]) -> None:
    """Another order of the dimensions, or blocks of values, are refused by the name of the tensor."""
    tensor, model = _sparse((3, 4), [3, ([0, 0, 0, 0], [])], np.zeros(0), **changes)
    with pytest.raises(StarterUnavailable, match='weights is stored in a sparse form'):
        tflite_file._dense(tensor, model)
