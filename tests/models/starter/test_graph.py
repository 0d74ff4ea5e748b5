"""Expressions become ONNX nodes that compute what numpy computes."""

import numpy as np
import onnx
import onnxruntime
import pytest

from detector.models.starter.graph import Graph, Tensor, concat, where


def run(graph: Graph, result: Tensor, *inputs: np.ndarray) -> np.ndarray:
    """Return the value of a tensor; the inputs of the graph are called `a`, `b`."""
    graph.output('result', result, ['i', 'j', 'k'])
    session = onnxruntime.InferenceSession(graph.model('test').SerializeToString())
    values = dict(zip('ab', inputs, strict=False))
    (answer,) = session.run(None, {value.name: values[value.name] for value in session.get_inputs()})
    return np.asarray(answer)


@pytest.fixture
def numbers() -> tuple[np.ndarray, np.ndarray]:
    a, b = np.random.default_rng(0).normal(size=(2, 2, 5, 3)).astype(np.float32)
    return a, b


def test_arithmetic_is_numpys(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    """Operators between tensors, and between tensors and numbers on either side, follow numpy's rules."""
    graph = Graph()
    a, b = (graph.input(name, ['i', 5, 3]) for name in 'ab')
    result = run(graph, (2 - a) * b / 4 + (1 + -a) - 0.5 * b.abs(), *numbers)
    x, y = numbers
    np.testing.assert_allclose(result, (2 - x) * y / 4 + (1 - x) - 0.5 * np.abs(y), rtol=1e-5)


def test_reductions_and_choices_are_numpys(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    """Minimum, maximum, mean, length, position of the maximum, slices, picks and choices do as numpy does."""
    graph = Graph()
    a, b = (graph.input(name, ['i', 5, 3]) for name in 'ab')
    spread = (a.max(1) - a.min(1)).at_least(0.5) + a.mean(1)
    picked = concat([a.take(1, [4, 0]), b.slice(1, 1, 3), b.point(2)], axis=1).clip(-1, 1)
    result = run(graph, where((a.length() > 1) & (b.length() < 2), picked, spread.transpose(0, 1, 2)), *numbers)
    x, y = numbers
    spread_x = np.maximum(np.ptp(x, axis=1, keepdims=True), 0.5) + x.mean(axis=1, keepdims=True)
    picked_x = np.clip(np.concatenate([x[:, [4, 0]], y[:, 1:3], y[:, 2:3]], axis=1), -1, 1)
    condition = (np.linalg.norm(x, axis=2, keepdims=True) > 1) & (np.linalg.norm(y, axis=2, keepdims=True) < 2)
    assert condition.any()
    assert not condition.all()
    np.testing.assert_allclose(result, np.where(condition, picked_x, spread_x), rtol=1e-5)


def test_equal_constants_are_stored_once() -> None:
    """Constants of the same type, shape and value share their place; others do not."""
    graph = Graph()
    a = graph.input('a', ['i', 1, 1])
    ones = [graph.floats([1.0]), graph.floats(1.0), graph.weights(np.ones(1, dtype=np.float16))]
    total = a + 1 + 1
    for one in ones:
        total = total + one
    graph.output('result', total, ['i', 1, 1])
    assert len(graph.model('test').graph.initializer) == 3


def test_a_graph_with_wrong_shapes_is_refused() -> None:
    """The model is checked with its shapes when it is made."""
    graph = Graph()
    graph.output('result', graph.input('a', [1, 2, 3]) @ graph.floats(np.ones((4, 2))), [1, 2, 2])
    with pytest.raises(onnx.shape_inference.InferenceError):
        graph.model('test')
