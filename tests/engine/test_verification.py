"""The trial inference of a package."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.packages import constant_network, with_network
from detector.engine.verification import verify
from detector.errors import InvalidPackage


def test_a_pose_network_of_17_keypoints_is_refused(tmp_path: Path) -> None:
    """The trial inference detects a network of 17 keypoints."""
    outputs = {'simcc_x': np.zeros((1, 17, 384)), 'simcc_y': np.zeros((1, 17, 512))}
    network = constant_network(tmp_path / 'body.onnx', outputs, (192, 256))
    with pytest.raises(InvalidPackage, match=r'pose.onnx: outputs are \[\(1, 17, 384\)'):
        verify(with_network(tmp_path / 'p.zip', 'estimator', network))


def test_a_detector_of_another_form_is_refused(tmp_path: Path) -> None:
    """The trial inference detects raw rows where the description promises NMS output."""
    network = constant_network(tmp_path / 'raw.onnx', {'output': np.zeros((1, 8400, 85))}, (640, 640))
    with pytest.raises(InvalidPackage, match=r'det.onnx: outputs are \[\(1, 8400, 85\)\]; dets'):
        verify(with_network(tmp_path / 'p.zip', 'detector', network))
