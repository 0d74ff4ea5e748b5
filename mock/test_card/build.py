"""Builds the generated files of `model_files/`: `uv run python -m mock.test_card.build`."""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from detector.models.embedded import EMBEDDED_PACKAGE, EXAMPLE_CARD, TEST_CARD_NAME
from detector.models.package import IMAGENET_MEAN, IMAGENET_STD, Detector, Estimator, Wholebody
from detector.models.packing import Identity, pack
from detector.pose import images

from .cards import Figure, draw_card
from .model import DETECTOR_SIZE, ESTIMATOR_SIZE, build_detector, build_estimator

TEST_CARD_VERSION: Final = '0.0'

EXAMPLE_FIGURES: Final = (Figure(x=60, y=40, height=560), Figure(x=620, y=210, height=440))
EXAMPLE_SIZE: Final = (1024, 683)


def wholebody_description(name: str = TEST_CARD_NAME) -> Wholebody:
    """Return the object `wholebody` of a package of the test card's networks; `pack` fills in the hashes."""
    return Wholebody(
        name=name,
        detector=Detector(
            file='det.onnx',
            sha256=64 * '0',
            input_size=DETECTOR_SIZE,
            color_order='BGR',
            output='nms',
            score_threshold=0.5,
        ),
        estimator=Estimator(
            file='pose.onnx',
            sha256=64 * '0',
            input_size=ESTIMATOR_SIZE,
            color_order='RGB',
            mean=tuple(IMAGENET_MEAN.tolist()),
            std=tuple(IMAGENET_STD.tolist()),
        ),
        precision='f32',  # in bfloat16, squared colour distances cancel
        origin='built by mock/test_card/model.py; no learned weights',
        licence='Apache-2.0',
    )


def build_package(archive: Path, *, identity: Identity, name: str = TEST_CARD_NAME) -> None:
    """Write a package of the test card's networks."""
    with tempfile.TemporaryDirectory() as folder:
        detector, estimator = Path(folder) / 'det.onnx', Path(folder) / 'pose.onnx'
        onnx.save(build_detector(), detector)
        onnx.save(build_estimator(), estimator)
        pack(
            archive,
            detector=detector,
            estimator=estimator,
            wholebody=wholebody_description(name),
            identity=identity,
        )


def build_example_card() -> bytes:
    """Return the JPEG of a card with two persons on light grey."""
    width, height = EXAMPLE_SIZE
    background = np.full((height, width, 3), 200, dtype=np.uint8)
    return images.encode_jpeg(draw_card(background, EXAMPLE_FIGURES), quality=90)


def main() -> None:
    build_package(EMBEDDED_PACKAGE, identity=Identity(version=TEST_CARD_VERSION))
    EXAMPLE_CARD.write_bytes(build_example_card())


if __name__ == '__main__':
    main()
