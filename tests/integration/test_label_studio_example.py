"""The example of a round trip through Label Studio, with a real server."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.support.label_studio_api import LabelStudio
from benchmarks.support.processes import PROJECT, NodeProcess, clean_environment
from detector.models.embedded import EXAMPLE_CARD
from detector.pose.skeleton import KEYPOINT_NAMES
from mock.test_card.build import EXAMPLE_FIGURES

pytestmark = pytest.mark.integration


def test_predictions_come_back_from_label_studio(label_studio: LabelStudio, node: NodeProcess, tmp_path: Path) -> None:
    """The example imports the test card, and its output file holds both persons where they were drawn."""
    predictions = tmp_path / 'predictions.json'
    environment = clean_environment(
        LABEL_STUDIO_URL=label_studio.url,
        LABEL_STUDIO_API_TOKEN=label_studio.personal_token(),
        BACKEND_PORT=node.port,
        DATA_FOLDER=tmp_path / 'data',
        PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
    )
    ended = subprocess.run(
        ['bash', PROJECT / 'examples' / 'label_studio_round_trip.sh', EXAMPLE_CARD.parent, predictions],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (image,) = json.loads(predictions.read_text())['images']
    assert image['origin']['model_version'] == 'test-card 0.0'
    assert len(image['persons']) == len(EXAMPLE_FIGURES)
    for figure in EXAMPLE_FIGURES:
        drawn = figure.keypoints[KEYPOINT_NAMES.index('left_wrist')]
        found = [person['keypoints']['left_wrist'][:2] for person in image['persons']]
        assert min(math.dist(drawn, point) for point in found) < 2
