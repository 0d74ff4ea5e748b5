"""Turned squares of an image: what is cropped, and where points of the crop lie in the image."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from detector.models.starter.graph import Graph, Tensor
from detector.models.starter.regions import Region, bounds, direction, turned_right

WIDTH, HEIGHT = 64, 48


def _computed(make: Callable[[Graph], Tensor], **inputs: np.ndarray) -> np.ndarray:
    graph = Graph()
    result = make(graph)
    graph.output('result', result, [f'axis_{number}' for number in range(4 if 'image' in inputs else 3)])
    session = onnxruntime.InferenceSession(graph.model('test').SerializeToString())
    (answer,) = session.run(None, inputs)
    return np.asarray(answer)


def _region(graph: Graph, centre: tuple[float, float], side: float, degrees: float) -> Region:
    """Return a region that is turned clockwise."""
    turn = np.radians(degrees)
    up = [np.sin(turn), -np.cos(turn)]
    return Region(centre=graph.floats([[centre]]), side=graph.floats([[[side]]]), up=graph.floats([[up]]))


@pytest.mark.parametrize('beyond', ['zeros', 'border'])
def test_an_upright_crop_of_the_same_scale_is_a_slice(beyond: str) -> None:
    """A region of 16 pixels, cropped to 16 pixels, holds exactly the pixels of the image."""
    image = np.random.default_rng(0).random((2, 3, HEIGHT, WIDTH), dtype=np.float32)

    def make(graph: Graph) -> Tensor:
        whole = graph.input('image', [2, 3, HEIGHT, WIDTH])
        centres = whole.slice(1, 0, 1).slice(2, 0, 1).slice(3, 0, 1).reshape(-1, 1, 1) * 0  # one region per image
        region = _region(graph, (23.5, 19.5), 16, 0)
        region = Region(centre=centres + region.centre, side=region.side, up=centres + region.up)
        return region.crop(whole, 16, image_size=(WIDTH, HEIGHT), beyond=beyond)

    np.testing.assert_allclose(_computed(make, image=image), image[:, :, 12:28, 16:32], atol=1e-5)


@pytest.mark.parametrize('beyond', ['zeros', 'border'])
def test_outside_the_image_is_black_or_the_nearest_pixel(beyond: str) -> None:
    """Left of a white image a crop is black, or continues the border."""
    image = np.ones((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    crop = _computed(
        lambda graph: _region(graph, (-0.5, 24), 16, 0).crop(
            graph.input('image', [1, 3, HEIGHT, WIDTH]), 16, image_size=(WIDTH, HEIGHT), beyond=beyond
        ),
        image=image,
    )
    np.testing.assert_allclose(crop[..., :8], 0 if beyond == 'zeros' else 1, atol=1e-5)
    np.testing.assert_allclose(crop[..., 8:], 1, atol=1e-5)


@pytest.mark.parametrize('degrees', [0, 30, 90, 200])
def test_a_point_of_the_crop_goes_back_to_where_it_was(degrees: float) -> None:
    """A bright spot of the image is found in the turned crop, and its place in the crop leads back to it."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    spot = np.array([35.0, 21.0])
    image = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 8).astype(np.float32)
    image = np.broadcast_to(image, (1, 3, HEIGHT, WIDTH)).copy()
    crop = _computed(
        lambda graph: _region(graph, (32, 24), 30, degrees).crop(
            graph.input('image', [1, 3, HEIGHT, WIDTH]), 60, image_size=(WIDTH, HEIGHT), beyond='zeros'
        ),
        image=image,
    )[0, 0]
    rows, columns = np.mgrid[:60, :60] + 0.5
    place = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
    back = _computed(
        lambda graph: _region(graph, (32, 24), 30, degrees).to_image(graph.input('points', [1, 1, 2]), 60),
        points=place.reshape(1, 1, 2).astype(np.float32),
    )
    np.testing.assert_allclose(back[0, 0], spot, atol=0.1)


def test_directions_and_bounds() -> None:
    """Up turned right is right; a direction has length 1, and none between equal points; bounds are the longer side."""
    up = np.array([[[0, -1]]], dtype=np.float32)
    assert _computed(lambda graph: turned_right(graph.input('up', [1, 1, 2])), up=up).ravel().tolist() == [1, 0]
    points = np.array([[[1, 1], [4, 5], [2, 9]]], dtype=np.float32)

    def from_first_to(index: int) -> np.ndarray:
        def make(graph: Graph) -> Tensor:
            tensor = graph.input('points', [1, 3, 2])
            return direction(tensor.point(0), tensor.point(index))

        return _computed(make, points=points).ravel()

    np.testing.assert_allclose(from_first_to(1), [0.6, 0.8], atol=1e-5)
    np.testing.assert_allclose(from_first_to(0), 0)
    assert _computed(lambda graph: bounds(graph.input('points', [1, 3, 2]))[0], points=points).ravel().tolist() == [
        2.5,
        5,
    ]
    assert _computed(lambda graph: bounds(graph.input('points', [1, 3, 2]))[1], points=points).ravel().tolist() == [8]
