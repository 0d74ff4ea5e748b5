"""Reading tasks of Label Studio."""

import pytest

from detector.label_studio.labels.tasks import name_in


@pytest.mark.parametrize(
    ('address', 'name'),
    [
        ('/data/upload/7/1a2b3c4d-Stra%C3%9Fe_1.jpg', 'Straße_1.jpg'),
        ('http://studio/ls/data/upload/7/1a2b3c4d-a.jpg', 'a.jpg'),
        ('/data/upload/7/1a2b3c4d-', '1a2b3c4d-'),
        ('/data/local-files/?d=photos%2F2026/a%20b.jpg', 'photos/2026/a b.jpg'),
        ('s3://bucket/in/a.jpg', 'in/a.jpg'),
        ('https://host/in/a.jpg?size=3', 'a.jpg'),
        ('data:image/png;base64,AAAA', None),
        ('http://[broken', None),
        ('', None),
        (None, None),
    ],
)
def test_names_of_tasks(address: object, name: str | None) -> None:
    """The name of a task's image lacks Label Studio's prefix, and has the folders of local and cloud files."""
    assert name_in(address) == name
