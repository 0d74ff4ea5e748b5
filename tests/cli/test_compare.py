"""`wholebody model compare`, on test cards whose persons are known to the pixel."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.support.cards import FIGURES, make_card
from benchmarks.support.packages import altered, make_package
from detector.cli.main import app
from detector.datasets.coco import to_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.person import Person
from detector.errors import InvalidRequest, NotFound
from detector.pose import images
from detector.pose.skeleton import KEYPOINT_COUNT
from mock.test_card.cards import Figure
from tests.support import commands


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with a card of two persons and one of a single person, and `truth.json` beside it."""
    folder = tmp_path / 'photographs'
    pictures = {'two.png': FIGURES, 'below/one.png': FIGURES[:1]}
    for name, figures in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        images.write_image(folder / name, make_card(figures))
    write_truth(tmp_path / 'truth.json', pictures)
    return folder


def write_truth(path: Path, pictures: Mapping[str, Sequence[Figure]], *, width: int = 720) -> None:
    labelled = [
        LabelledImage(id=number, file_name=name, width=width, height=480, persons=[person(one) for one in figures])
        for number, (name, figures) in enumerate(pictures.items(), 1)
    ]
    path.write_text(json.dumps(to_coco(labelled)))


def person(figure: Figure) -> Person:
    return Person(
        box=np.array(figure.box, np.float32),
        box_score=None,
        keypoints=np.array(figure.keypoints, np.float32),
        visibility=np.full(KEYPOINT_COUNT, 2, np.int8),
        scores=np.full(KEYPOINT_COUNT, np.nan, np.float32),
    )


@pytest.fixture
def colour_blind(tmp_path: Path) -> Path:
    """A package that finds the persons of a card, but mistakes the colours of their dots."""

    def change(description: dict[str, Any]) -> None:
        description['version'] = '6.6'
        description['wholebody']['name'] = 'colour blind'
        description['wholebody']['estimator']['color_order'] = 'BGR'

    return altered(tmp_path / 'blind.zip', change)


def compare(*arguments: object) -> str:
    return commands.succeed(app, 'model', 'compare', *arguments)


def figures(file: Path) -> dict[str, Any]:
    """Return the evaluations by version."""
    content = json.loads(file.read_text())
    return {evaluation['model_version']: evaluation for evaluation in content['evaluations']}


def test_two_models_are_measured_against_annotations(photographs: Path, colour_blind: Path, tmp_path: Path) -> None:
    """The figures show that one model places the keypoints right and the other does not."""
    result = tmp_path / 'figures.json'
    truth = tmp_path / 'truth.json'
    printed = compare('test-card', colour_blind, '--images', photographs, '--truth', truth, '--json', result)
    assert '2 images with 3 persons' in printed
    found = figures(result)
    right, wrong = found['test-card 0.0'], found['colour blind 6.6']
    assert (right['people'], right['missed'], right['surplus']) == (3, 0, 0)
    for part in right['parts']:
        assert part['oks'] > 0.95
        assert part['ap'] == 1
    assert all(part['ap'] < 0.2 for part in wrong['parts'])
    times = json.loads(result.read_text())['times']
    assert times['test-card 0.0']['milliseconds_per_person'] == pytest.approx(
        1000 * times['test-card 0.0']['seconds'] / 3
    )


def test_without_annotations_the_agreement_is_measured(photographs: Path, colour_blind: Path, tmp_path: Path) -> None:
    """The persons of the first model are the reference: a copy of it agrees completely, the other model does not."""
    result = tmp_path / 'figures.json'
    copy = make_package(tmp_path / 'copy.zip', version='9.9', name='copy')
    assert '2 images, agreement with test-card 0.0' in compare(
        'test-card', copy, '--images', photographs, '--json', result
    )
    (same,) = figures(result).values()
    assert (same['model_version'], same['people'], same['missed'], same['surplus']) == ('copy 9.9', 3, 0, 0)
    assert {part['oks'] for part in same['parts']} == {1}
    assert json.loads(result.read_text())['reference'] == 'test-card 0.0'
    compare('test-card', colour_blind, '--images', photographs, '--json', result)
    (other,) = figures(result).values()
    assert all(part['ap'] < 0.2 for part in other['parts'])


def test_crowds_are_no_persons_and_unused_images_are_named(photographs: Path, tmp_path: Path) -> None:
    """A crowd region does not count as a missed person; images that the annotations lack are mentioned."""
    truth, result = tmp_path / 'truth.json', tmp_path / 'figures.json'
    write_truth(truth, {'two.png': FIGURES})
    content = json.loads(truth.read_text())
    content['annotations'].append(content['annotations'][0] | {'id': 99, 'iscrowd': 1})
    truth.write_text(json.dumps(content))
    commands.succeed(app, 'model', 'install', make_package(tmp_path / 'm.zip', version='2.0', name='mine'))
    printed = compare('mine', 'test-card', '--images', photographs, '--truth', truth, '--json', result)
    assert f'1 image in {photographs} has no entry in {truth} and is not used' in printed
    assert figures(result)['mine 2.0']['missed'] == 0


def test_what_cannot_be_compared_is_named(photographs: Path, tmp_path: Path) -> None:
    """Equal models, unknown models, missing images, other sizes and empty folders are refused."""
    other = make_package(tmp_path / 'other.zip', version='2.0')
    truth = tmp_path / 'truth.json'

    def fault(*arguments: object) -> str:
        result = commands.invoke(app, 'model', 'compare', *arguments)
        assert isinstance(result.exception, InvalidRequest | NotFound), result.output
        return str(result.exception)

    assert 'both models are test-card 0.0' in fault('test-card', 'test-card', '--images', photographs)
    assert 'nothing is not installed' in fault('nothing', 'test-card', '--images', photographs)
    (tmp_path / 'empty').mkdir()
    assert 'no images' in fault('test-card', other, '--images', tmp_path / 'empty')
    write_truth(truth, {'gone.png': FIGURES})
    assert 'lacks images of' in fault('test-card', other, '--images', photographs, '--truth', truth)
    write_truth(truth, {'two.png': FIGURES}, width=700)
    assert 'has 720×480 pixels, but the annotations are for 700×480' in fault(
        'test-card', other, '--images', photographs, '--truth', truth
    )
