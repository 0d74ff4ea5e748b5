"""The report of an evaluation."""

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.datasets.person import Person
from detector.errors import ExtraMissing, InvalidRequest
from detector.label_studio.evaluation.evaluation import Evaluated, Evaluation, evaluate
from detector.label_studio.evaluation.matching import EVALUATED_PARTS
from detector.label_studio.evaluation.report import MAX_CORRECTED, MAX_IMAGES, most_corrected, to_html, to_json
from detector.pose.skeleton import KEYPOINT_NAMES
from tests.support.label_studio.evaluated import LEFT_HAND, make_image, make_person, moved, without

ATTACK = '<script>alert("1")</script>\'&.jpg'


class Reader(HTMLParser):
    """Collects what a browser would show."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, tag: str, attribute: str) -> list[str | None]:
        return [attributes.get(attribute) for name, attributes in self.tags if name == tag]


def report(path: Path, *evaluations: Evaluation) -> Reader:
    to_html(evaluations, path)
    return Reader(path.read_text(encoding='utf-8'))


def make_evaluation(version: str = 'm 1.0', name: str = 'image.jpg', address: str | None = None) -> Evaluation:
    """Make an evaluation of one image with a wrong left hand."""
    person = make_person()
    predicted = [moved(person, LEFT_HAND.indices, 100)]
    image = Evaluated(name=name, people=[person], predicted=predicted, model_version=version, address=address)
    return evaluate([image])


def test_the_file_shows_all_parts_and_keypoints(tmp_path: Path) -> None:
    """The report shows all parts and keypoints, three plots and the image's name, and fetches nothing."""
    seen = report(tmp_path / 'new' / 'report.html', make_evaluation())
    assert {part.name for part in EVALUATED_PARTS} <= set(seen.text)
    assert set(KEYPOINT_NAMES) <= set(seen.text)
    assert {'AP50', 'AP75', 'AR', 'PCK 0.05', 'corrected', 'image.jpg'} <= set(seen.text)
    sources = seen.values('img', 'src')
    assert len(sources) == 3
    for source in sources:
        kind, _, data = str(source).partition(',')
        assert kind == 'data:image/png;base64'
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape[1] == 1100
    assert not {'script', 'link', 'iframe'} & {tag for tag, _ in seen.tags}
    assert not re.search(r'(src|href)="(?!data:)', (tmp_path / 'new' / 'report.html').read_text())


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    """File names and versions are escaped in HTML and drawn safely in legends."""
    versions = (ATTACK, '_hidden $x^{$', '模型 1\n2', '\ud800')
    address = f'https://x.test/{ATTACK}'
    path = tmp_path / 'report.html'
    seen = report(path, *(make_evaluation(version=version, name=ATTACK, address=address) for version in versions))
    assert 'script' not in {tag for tag, _ in seen.tags}
    assert '<script' not in path.read_text()
    assert {*versions[:3], '?'} <= set(seen.text)
    assert seen.values('a', 'href') == 4 * [address]


def test_only_addresses_of_the_web_become_links(tmp_path: Path) -> None:
    """Only http and https addresses become links."""
    addresses = [None, 'javascript:alert(1)', 'data:text/html,x', '/data/x.jpg', 'http://[x', 'HTTPS://x.test/1']
    person = make_person()
    images = [
        Evaluated(name=f'image {address}', people=[person], predicted=[], model_version='1', address=address)
        for address in addresses
    ]
    seen = report(tmp_path / 'report.html', evaluate(images))
    assert seen.values('a', 'href') == ['HTTPS://x.test/1']
    assert {f'image {address}' for address in addresses} <= set(seen.text)


def test_versions_stand_side_by_side(tmp_path: Path) -> None:
    """Versions are shown side by side with their change, and different images are pointed out."""
    person = make_person()
    better = evaluate([make_image([person], [person], version='m 1.1')])
    seen = report(tmp_path / 'report.html', make_evaluation(), better)
    text = ' '.join(seen.text)
    assert {'m 1.0', 'm 1.1', 'change', '+1.000', '+0.000'} <= set(seen.text)
    assert 'different images' not in text
    assert len(seen.values('img', 'src')) == 3, 'the better version has no corrected keypoints'
    other = evaluate([make_image([person], [], 'other.jpg', 'm 1.2')])
    assert 'different images' in ' '.join(report(tmp_path / 'report.html', better, other).text)


def test_nothing_to_measure_is_shown_as_such(tmp_path: Path) -> None:
    """Missing figures are shown as dashes."""
    seen = report(tmp_path / 'report.html', evaluate([make_image([], [])]))
    assert '–' in seen.text
    assert 'nan' not in ' '.join(seen.text).lower()


def test_only_the_worst_images_are_listed(tmp_path: Path) -> None:
    """Only images with faults are listed, the worst first, up to the limit."""
    person = make_person()
    images = [make_image([person], [], f'bad {number:03}') for number in range(MAX_IMAGES + 5)]
    images.append(make_image([person], [person], 'good'))
    seen = report(tmp_path / 'report.html', evaluate(images))
    listed = [text for text in seen.text if text.startswith(('bad', 'good'))]
    assert listed == [f'bad {number:03}' for number in range(MAX_IMAGES)]


def test_the_most_corrected_keypoints_come_first() -> None:
    """The most corrected keypoints come first, by share and then by number, without uncorrected ones."""
    one, two = make_person(0), make_person(500, seed=1)
    people: list[Person] = [without(moved(one, [7], 50), [3]), without(moved(two, [5, 7], 50), [3])]
    evaluation = evaluate([make_image(people, [one, without(two, [3])])])
    assert [(point.name, point.corrected_share) for point in most_corrected(evaluation)] == [
        ('left_elbow', 1),
        ('left_ear', 1),
        ('left_shoulder', 0.5),
    ]
    many = evaluate([make_image([one], [moved(one, range(133), 50)])])
    assert len(most_corrected(many)) == MAX_CORRECTED


def test_json_holds_every_figure() -> None:
    """The JSON has every figure, derived ones included, and is valid JSON."""
    evaluation = make_evaluation()
    read = json.loads(json.dumps(to_json(evaluation), allow_nan=False))
    assert read['model_version'] == 'm 1.0'
    assert [part['name'] for part in read['parts']] == [part.name for part in EVALUATED_PARTS]
    assert len(read['keypoints']) == 133
    hand = next(part for part in read['parts'] if part['name'] == 'left_hand')
    assert (hand['ap'], hand['pck05'], hand['people']) == (0, 0, 1)
    assert len(hand['pck']) == len(read['pck_thresholds'])
    wrist = next(point for point in read['keypoints'] if point['name'] == 'left_hand_0')
    assert (wrist['moved'], wrist['corrected'], wrist['corrected_share']) == (1, 1, 1)
    assert read['images'][0]['name'] == 'image.jpg'
    empty = to_json(evaluate([make_image([], [])]))
    assert json.loads(json.dumps(empty, allow_nan=False))['parts'][0]['ap'] is None


def test_a_report_needs_evaluations_and_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of no evaluation or of one version twice is refused; the error for a missing package names the extra."""
    path = tmp_path / 'report.html'
    with pytest.raises(ValueError, match='at least one'):
        to_html([], path)
    evaluation = make_evaluation()
    with pytest.raises(InvalidRequest, match='each once'):
        to_html([evaluation, evaluation], path)
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(ExtraMissing, match=r'matplotlib is not installed.*extra `evaluate`'):
        to_html([evaluation], path)
    assert not path.exists()
