"""Each converted network computes what OpenVINO's own reader of tflite files makes of the same file."""

from importlib.metadata import distribution
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import tflite

from detector.errors import StarterUnavailable
from detector.models.starter import network
from detector.models.starter.graph import Graph
from detector.models.starter.network import Network
from detector.models.starter.sources import FACE, HAND, HAND_RECROP, POSE, POSE_DETECTOR, Source, read_network
from tests.support.starter import needs_starter

_OUTPUTS = {POSE_DETECTOR: (0, 1), POSE: (0, 1), HAND_RECROP: (0,), HAND: (0, 1), FACE: (0, 1)}


def _converted(source: Source, outputs: tuple[int, ...]) -> tuple[onnxruntime.InferenceSession, int]:
    """Return a session of a converted network, and the size of its input."""
    graph = Graph()
    net = Network(graph, read_network(source), outputs=outputs)
    for number, tensor in enumerate(net(graph.input('input', ['n', 3, net.size, net.size]))):
        graph.output(f'output_{number}', tensor.reshape(-1), ['values'])
    return onnxruntime.InferenceSession(graph.model('test').SerializeToString()), net.size


@needs_starter
@pytest.mark.parametrize('source', _OUTPUTS, ids=lambda source: source.path.rpartition('/')[2])
def test_a_network_computes_what_openvino_reads(source: Source) -> None:
    """On noise and on a smooth picture, each wanted output agrees to 1e-4 of its largest value."""
    outputs = _OUTPUTS[source]
    session, size = _converted(source, outputs)
    path = distribution('mediapipe').locate_file(f'mediapipe/modules/{source.path}')
    core = openvino.Core()
    reference = core.compile_model(core.read_model(str(path)), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    noise = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    smooth = np.linspace(0, 1, 3 * size * size, dtype=np.float32).reshape(1, size, size, 3).transpose(0, 3, 1, 2)
    for image in (noise, np.ascontiguousarray(smooth)):
        found = session.run(None, {'input': image})
        expected = reference(np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
        for values, number in zip(found, outputs, strict=True):
            other = expected[reference.outputs[number]].ravel()
            np.testing.assert_allclose(values, other, rtol=0, atol=1e-4 * max(1, np.abs(other).max()))


@needs_starter
def test_an_operator_without_conversion_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with an operator that cannot be converted is refused by the operator's name."""
    monkeypatch.delitem(network._CONVERSIONS, 'PRELU')
    with pytest.raises(StarterUnavailable, match='the tflite operators PRELU have no conversion'):
        Network(Graph(), read_network(FACE), outputs=(0, 1))


@needs_starter
def test_unwanted_outputs_bring_no_operators() -> None:
    """The pose network without its mask and heat map needs no resizing, which only these use."""
    content = read_network(POSE)
    names = [{operator.name for operator in Network(Graph(), content, outputs=o)._operators} for o in ((0, 1), (0, 2))]
    assert 'RESIZE_BILINEAR' not in names[0]
    assert 'RESIZE_BILINEAR' in names[1]


@needs_starter
@pytest.mark.parametrize(
    ('options', 'name', 'value'),
    [
        (tflite.Conv2DOptions, 'DilationWFactor', 2),
        (tflite.DepthwiseConv2DOptions, 'DepthMultiplier', 2),
        (tflite.ResizeBilinearOptions, 'AlignCorners', True),
    ],
)
def test_options_without_conversion_are_refused(
    options: Any, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options that the conversion does not follow are refused, not ignored."""
    monkeypatch.setattr(options, name, lambda self: value)
    graph = Graph()
    net = Network(graph, read_network(POSE_DETECTOR), outputs=(0, 1))
    with pytest.raises(StarterUnavailable, match='has options without a conversion'):
        net(graph.input('input', ['n', 3, net.size, net.size]))


@needs_starter
def test_weights_are_shared_by_the_calls() -> None:
    """A second call adds nodes but no constants, although weights are by far the largest part of a network."""
    sizes = []
    for calls in (1, 2):
        graph = Graph()
        net = Network(graph, read_network(HAND_RECROP), outputs=(0,))
        image = graph.input('input', ['n', 3, net.size, net.size])
        for call in range(calls):
            graph.output(f'output_{call}', net(image)[0], ['n', 4, 1, 1])
        sizes.append(graph.model('test').ByteSize())
    assert sizes[1] < 1.2 * sizes[0]
