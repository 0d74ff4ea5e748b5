"""Teachers of YOLOX's raw form and their features."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.teacher import Teacher

COLUMNS = 85
EMBEDDING = np.random.default_rng(0).normal(0, 1e-3, (8, 3, 32, 32)).astype(np.float32)
PREDICTION = np.random.default_rng(1).normal(0, 1, (COLUMNS, 8, 1, 1)).astype(np.float32)


def small_teacher(path: Path, *, columns: int = COLUMNS) -> Path:
    """Write a network of a convolution with SiLU and a prediction, whose output has the raw form's columns."""
    nodes = [
        helper.make_node('Conv', ['images', 'embedding'], ['convolved'], strides=[32, 32]),
        helper.make_node('Sigmoid', ['convolved'], ['gate']),
        helper.make_node('Mul', ['convolved', 'gate'], ['activated']),
        helper.make_node('Conv', ['activated', 'prediction'], ['predicted']),
        helper.make_node('Reshape', ['predicted', 'shape'], ['flat']),
        helper.make_node('Transpose', ['flat'], ['output'], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        'teacher',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, 416, 416])],
        [helper.make_tensor_value_info('output', TensorProto.FLOAT, [1, 169, columns])],
        [
            numpy_helper.from_array(EMBEDDING, 'embedding'),
            numpy_helper.from_array(PREDICTION[:columns], 'prediction'),
            numpy_helper.from_array(np.array([1, columns, 169]), 'shape'),
        ],
    )
    opsets = [helper.make_opsetid('', 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_teacher_answers_persons_and_features(tmp_path: Path) -> None:
    """The rows have box, objectness and the first class; the features are those after the named convolution."""
    teacher = Teacher(small_teacher(tmp_path / 't.onnx'), {'end': 'layer'}, {'layer': EMBEDDING.shape})
    pictures = np.random.default_rng(1).integers(0, 256, (2, 416, 416, 3)).astype(np.uint8)
    answer = teacher(pictures)
    assert answer.rows.shape == (2, 169, 6)
    features = answer.features['end']
    assert features.shape == (2, 8, 13, 13)
    first = np.einsum('cyx,ocyx->o', pictures[1, :32, :32].transpose(2, 0, 1).astype(float), EMBEDDING)
    np.testing.assert_allclose(features[1, :, 0, 0], first / (1 + np.exp(-first)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(answer.rows[1, 0], PREDICTION[:6, :, 0, 0] @ features[1, :, 0, 0], rtol=1e-3, atol=1e-4)
    assert Teacher(tmp_path / 't.onnx')(pictures).features == {}


@pytest.mark.parametrize('shapes', [[(8, 3, 16, 16)], [(8, 3, 32, 32), (8, 8, 1, 1)]])
def test_a_teacher_of_another_structure_is_refused(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    """If features are wanted, a teacher with other convolutions than the student is refused with its path."""
    small_teacher(tmp_path / 't.onnx')
    with pytest.raises(ValueError, match=r't\.onnx: its 1 convolutions with SiLU differ .* YOLOX-nano'):
        Teacher(tmp_path / 't.onnx', {'end': '0'}, {str(index): shape for index, shape in enumerate(shapes)})


def test_another_network_is_refused(tmp_path: Path) -> None:
    """A network whose output has too few columns for the raw form is refused with its path."""
    with pytest.raises(ValueError, match=r't\.onnx: one output with 6 or more columns'):
        Teacher(small_teacher(tmp_path / 't.onnx', columns=5))
