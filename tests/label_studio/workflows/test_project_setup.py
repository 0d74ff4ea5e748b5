import httpx
import pytest

from detector.errors import InvalidRequest
from detector.label_studio.labels.config import generate
from detector.label_studio.workflows.project_setup import Node, canonical, meaning


def test_looks_order_and_blanks_are_no_meaning() -> None:
    """Colours, sizes, hotkeys, and the order of labels and attributes do not change the meaning of a config."""
    config = '<View><Image name="i" value="$a"/><RectangleLabels name="b" toName="i">{}</RectangleLabels></View>'
    first = config.format('<Label value="person" background="red"/><Label value="dog"/>')
    second = config.format('\n <Label value="dog" hotkey="d"/>\n <Label background="blue" value="person"/>')
    assert meaning(first) == meaning(second)
    assert canonical(first) != canonical(second)
    assert canonical(first) == canonical(first.replace('><', '>\n  <'))


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('value="$image"', 'value="$photo"'),
        ('value="person"', 'value="human"'),
        ('name="bbox"', 'name="box"'),
        ('RectangleLabels', 'EllipseLabels'),
        ('model_index="7"', 'model_index="8"'),
        ('</View>', '<Choices name="c" toName="image"><Choice value="blurred"/></Choices></View>'),
        ('</View>', '<'),
    ],
)
def test_what_annotations_depend_on_is_meaning(old: str, new: str) -> None:
    """Names, kinds, labels and the image change the meaning, and a config that is not XML differs from any other."""
    config = generate('keypoints')
    assert old in config
    assert meaning(config.replace(old, new)) != meaning(config)


@pytest.mark.parametrize(
    'url', ['localhost:8004', 'ftp://node', 'http://', 'http://ann:pw@node', 'http://node/?a=b', ' http://node']
)
def test_an_address_of_a_node_that_cannot_be_used_is_refused_unseen(url: str) -> None:
    """An invalid address is refused without being shown, since it may hold a password."""
    with pytest.raises(InvalidRequest, match='--node') as caught:
        Node(url=url)
    assert 'pw' not in str(caught.value)


def test_a_webhook_gets_what_the_node_asks_for() -> None:
    """The webhook's headers hold the node's credentials as HTTP libraries write them, and no representation shows the
    password."""
    node = Node(url='http://node:8004/', user='ann', password='a:b c')
    assert node.url == 'http://node:8004'
    assert Node(url='http://node').headers == {}
    request = next(httpx.BasicAuth('ann', 'a:b c').auth_flow(httpx.Request('GET', node.url)))
    assert node.headers == {'Authorization': request.headers['Authorization']}
    assert 'a:b c' not in repr(node)
