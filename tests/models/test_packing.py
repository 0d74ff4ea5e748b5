"""Packing of ONNX files."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.support.packages import constant_network
from detector.engine.verification import verify
from detector.errors import InvalidPackage
from detector.models.packing import pack_onnx
from mock.test_card.model import build_detector, build_estimator


@pytest.fixture
def networks(tmp_path: Path) -> tuple[Path, Path]:
    """A detector and an estimator as ONNX files."""
    detector, estimator = tmp_path / 'yolox.onnx', tmp_path / 'rtmw.onnx'
    onnx.save(build_detector(), detector)
    onnx.save(build_estimator(), estimator)
    return detector, estimator


def test_sizes_and_output_form_are_read_from_the_files(tmp_path: Path, networks: tuple[Path, Path]) -> None:
    """The package is valid and has the colour orders of the published models."""
    detector, estimator = networks
    pack_onnx(tmp_path / 'p.zip', detector=detector, estimator=estimator, name='mine', version='2.1', verify=verify)
    wholebody = verify(tmp_path / 'p.zip').wholebody
    assert wholebody.detector.input_size == (640, 640)
    assert wholebody.estimator.input_size == (192, 256)
    assert (wholebody.detector.color_order, wholebody.estimator.color_order) == ('BGR', 'RGB')
    assert wholebody.detector.output == 'nms'
    assert wholebody.detector.score_threshold is None


def test_a_raw_detector_is_recognised(tmp_path: Path, networks: tuple[Path, Path]) -> None:
    """One output of 85 columns is recognised as YOLOX without NMS."""
    raw = constant_network(tmp_path / 'raw.onnx', {'output': np.zeros((1, 3549, 85))}, (416, 416))
    package = pack_onnx(
        tmp_path / 'p.zip', detector=raw, estimator=networks[1], name='mine', version='1.0', verify=verify
    )
    assert package.wholebody.detector.output == 'raw'
    assert package.wholebody.detector.input_size == (416, 416)


def test_swapped_or_foreign_files_are_refused_and_leave_nothing(tmp_path: Path, networks: tuple[Path, Path]) -> None:
    """Swapped networks, a text file, a bad mapping and a bad version are refused; no file remains."""
    detector, estimator = networks
    target = tmp_path / 'out' / 'p.zip'
    text = tmp_path / 'text.onnx'
    text.write_text('hello')
    with pytest.raises(InvalidPackage, match=r'rtmw.onnx: outputs are'):
        pack_onnx(target, detector=estimator, estimator=detector, name='m', version='1.0', verify=verify)
    with pytest.raises(InvalidPackage, match='text.onnx is not a readable ONNX file'):
        pack_onnx(target, detector=text, estimator=estimator, name='m', version='1.0', verify=verify)
    with pytest.raises(InvalidPackage, match='score mapping'):
        pack_onnx(
            target, detector=detector, estimator=estimator, name='m', version='1.0', verify=verify, score_mapping='0-1'
        )
    with pytest.raises(InvalidPackage, match='score_mapping'):
        pack_onnx(
            target,
            detector=detector,
            estimator=estimator,
            name='m',
            version='1.0',
            verify=verify,
            score_mapping='0:1,1:0',
        )
    with pytest.raises(InvalidPackage, match='version'):
        pack_onnx(target, detector=detector, estimator=estimator, name='m', version='one', verify=verify)
    assert not target.parent.exists() or not list(target.parent.iterdir())


def test_a_network_without_fixed_input_size_is_refused(tmp_path: Path, networks: tuple[Path, Path]) -> None:
    """A network of variable input size is refused, since its size cannot be read."""
    model = build_detector()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = 'height'
    onnx.save(model, tmp_path / 'dynamic.onnx')
    with pytest.raises(InvalidPackage, match=r'fixed size is needed'):
        pack_onnx(
            tmp_path / 'p.zip',
            detector=tmp_path / 'dynamic.onnx',
            estimator=networks[1],
            name='m',
            version='1.0',
            verify=verify,
        )
