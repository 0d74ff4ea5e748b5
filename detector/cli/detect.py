"""`wholebody detect`: find the poses in image files, with the local engine or a running node."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import track

from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.errors import InvalidRequest, WholebodyError
from detector.models import package as model_package
from detector.models.embedded import INSTALL_HINT, embedded_notice
from detector.models.store import ModelStore
from detector.pose import images, overlay
from detector.pose.images import Image
from detector.pose.pose import Pose, poses_to_json
from detector.settings import Settings
from detector.system.scratch import scratch_folder
from detector.wording import counted

from .common import NodeClient, image_files


class _Source(Protocol):
    """A source of poses."""

    def detect(self, path: Path, image: Image) -> dict[str, Any]:
        """Return the grouped form of an image's poses."""


class _LocalEngine:
    def __init__(self, settings: Settings, package: model_package.ModelPackage) -> None:
        self._engine = PoseEngine(package, EngineOptions.of(settings))
        self._engine.check()

    def detect(self, path: Path, image: Image) -> dict[str, Any]:
        height, width = image.shape[:2]
        start = time.perf_counter()
        poses = self._engine.poses(image)
        elapsed = round(1000 * (time.perf_counter() - start), 2)
        answer = poses_to_json(poses, width=width, height=height, model_version=self._engine.package.model_version)
        package = self._engine.package
        notice = {'notice': embedded_notice(package.name, INSTALL_HINT)} if package.is_embedded else {}
        return answer | {'timing': {'inference_ms': elapsed}} | notice


class _Node:
    def __init__(self, node: NodeClient) -> None:
        self._node = node

    def detect(self, path: Path, image: Image) -> dict[str, Any]:
        response = self._node.send('POST', '/poses', files={'file': (path.name, path.read_bytes())})
        try:
            answer = response.json()
        except ValueError as error:
            raise self._node.fault(response, f'not JSON: {error}') from error
        if not response.is_success or not isinstance(answer, dict) or 'poses' not in answer:
            detail = answer.get('detail') if isinstance(answer, dict) else None
            raise self._node.fault(response, str(detail or 'no poses'))
        return answer


def run(
    settings: Settings,
    paths: Sequence[Path],
    *,
    output: Path | None,
    as_json: bool,
    url: str | None,
    model: Path | None,
) -> int:
    """Detect the poses in files and folders, then print and draw them.

    :return: number of images that failed.
    :raises WholebodyError: there are no images, or the model or node cannot be used.
    """
    files = list(_expand(paths))
    to_folder = len(files) > 1 or paths[0].is_dir()
    jobs = [(path, _target(output, base, path) if to_folder else output) for base, path in files]
    _check_targets(jobs)
    failed = 0
    hints: dict[str, None] = {}
    with ExitStack() as stack:
        source: _Source
        if url is not None:
            source = _Node(stack.enter_context(NodeClient(url, settings)))
        else:
            scratch = stack.enter_context(scratch_folder())
            source = _LocalEngine(settings, ModelStore(settings.data_folder).open(model, scratch, mode=settings.mode))
        for path, target in track(jobs, 'detecting', console=Console(stderr=True), disable=len(jobs) == 1):
            try:
                answer = _process(settings, source, path, target, as_json)
                if not answer['poses'] and 'notice' in answer:
                    hints[answer['notice']] = None
            except (WholebodyError, OSError) as error:
                failed += 1
                print(f'error: {path}: {error}', file=sys.stderr)
    for hint in hints:
        print(hint, file=sys.stderr)
    return failed


def _expand(paths: Sequence[Path]) -> Iterable[tuple[Path, Path]]:
    """Yield each image file with the folder that it was found in."""
    for path in paths:
        if path.is_dir():
            yield from ((path, file) for file in image_files(path))
        else:
            yield path.parent, path


def _target(output: Path | None, base: Path, path: Path) -> Path | None:
    return None if output is None else output / path.relative_to(base)


def _check_targets(jobs: Sequence[tuple[Path, Path | None]]) -> None:
    """Raise an error if an output would overwrite an input or another output."""
    inputs = {path.resolve() for path, _ in jobs}
    targets = [target.resolve() for _, target in jobs if target is not None]
    for target in targets:
        if target in inputs:
            raise InvalidRequest(f'{target} is an input; choose another output')
        if targets.count(target) > 1:
            raise InvalidRequest(f'{target} would be written more than once; run the command once per folder')


def _process(settings: Settings, source: _Source, path: Path, target: Path | None, as_json: bool) -> dict[str, Any]:
    image = images.read_image(path, max_pixels=settings.max_image_pixels)
    answer = source.detect(path, image)
    if as_json:
        print(json.dumps({'file': str(path)} | answer))
    else:
        print(_summary(path, answer, settings.confidence_threshold))
    if target is not None:
        poses = [Pose.from_json(pose) for pose in answer['poses']]
        images.write_image(target, overlay.draw_poses(image, poses, confidence_threshold=settings.confidence_threshold))
    return answer


def _summary(path: Path, answer: dict[str, Any], threshold: float) -> str:
    persons = [
        f'{pose["confidence"]:.2f} ({sum(point["confidence"] >= threshold for point in pose["keypoints"])} keypoints)'
        for pose in answer['poses']
    ]
    found = counted(len(persons), 'person')
    return f'{path}: {found}{": " if persons else ""}{", ".join(persons)} [{answer["model_version"]}]'
