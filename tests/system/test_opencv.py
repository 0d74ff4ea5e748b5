"""Installed OpenCV distributions."""

from types import SimpleNamespace

import pytest

from detector.system import opencv
from detector.system.opencv import opencv_fault


def test_exactly_one_distribution_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several OpenCV distributions or none, the fault names them and the pip command that repairs this."""
    names = ['numpy', 'Opencv-Python-Headless', 'opencv-python', None]

    def installed() -> list[object]:
        return [SimpleNamespace(name=name) for name in names]

    monkeypatch.setattr(opencv, 'distributions', installed)
    assert opencv_fault() == (
        'opencv-python, opencv-python-headless are installed and overwrite each other; repair it: '
        'pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless'
    )
    names.remove('opencv-python')
    assert opencv_fault() is None
    names.remove('Opencv-Python-Headless')
    assert opencv_fault() is None, 'cv2 may belong to a system package'
    monkeypatch.setattr(opencv, 'find_spec', lambda _: None)
    assert opencv_fault() == 'OpenCV is not installed; repair it: pip install opencv-python-headless'
