"""Whole-body pose estimation: 133 keypoints for each person in an image.

The names below are the Python API. They are loaded when they are first used, so `import detector` is fast.

>>> from detector import PoseEngine, installed_package, open_package, read_image
>>> poses = PoseEngine(open_package(installed_package())).poses(read_image('photo.jpg'))
>>> len(poses), poses[0].keypoints.shape
(2, (133, 2))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.engine.pose_engine import EngineOptions, PoseEngine
    from detector.errors import InvalidImage, InvalidPackage, RuntimeUnavailable, WholebodyError
    from detector.models.package import ModelPackage, open_package, unpack_package
    from detector.models.store import embedded_package, installed_package
    from detector.pose.images import decode_image, read_image, write_image
    from detector.pose.overlay import draw_poses
    from detector.pose.pose import Pose, poses_to_json
    from detector.pose.similarity import box_ious, oks
    from detector.pose.skeleton import FLIP_INDICES, KEYPOINT_NAMES, OKS_SIGMAS, PARTS, SKELETON_EDGES

    __version__: str
    """Version of this project, e.g. `0.1.0`."""

__all__ = [
    '__version__',
    # engine
    'PoseEngine',
    'EngineOptions',
    # model packages
    'installed_package',
    'embedded_package',
    'open_package',
    'unpack_package',
    'ModelPackage',
    # poses
    'Pose',
    'poses_to_json',
    'oks',
    'box_ious',
    # images
    'read_image',
    'decode_image',
    'write_image',
    'draw_poses',
    # skeleton
    'KEYPOINT_NAMES',
    'PARTS',
    'SKELETON_EDGES',
    'FLIP_INDICES',
    'OKS_SIGMAS',
    # errors
    'WholebodyError',
    'InvalidImage',
    'InvalidPackage',
    'RuntimeUnavailable',
]

_SOURCES = {
    'engine.pose_engine': ('EngineOptions', 'PoseEngine'),
    'errors': ('InvalidImage', 'InvalidPackage', 'RuntimeUnavailable', 'WholebodyError'),
    'models.package': ('ModelPackage', 'open_package', 'unpack_package'),
    'models.store': ('embedded_package', 'installed_package'),
    'pose.images': ('decode_image', 'read_image', 'write_image'),
    'pose.overlay': ('draw_poses',),
    'pose.pose': ('Pose', 'poses_to_json'),
    'pose.similarity': ('box_ious', 'oks'),
    'pose.skeleton': ('FLIP_INDICES', 'KEYPOINT_NAMES', 'OKS_SIGMAS', 'PARTS', 'SKELETON_EDGES'),
}


def __getattr__(name: str) -> Any:
    if name == '__version__':
        from importlib.metadata import version

        return version('wholebody-pose-node')
    for module, names in _SOURCES.items():
        if name in names:
            return getattr(import_module(f'{__name__}.{module}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted(__all__)
