from pathlib import Path, PurePosixPath

import pytest

from detector.errors import InvalidRequest
from detector.label_studio.workflows.image_imports import LocalFiles, find_images, folders_to_serve


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_found_by_their_endings_each_once(tmp_path: Path) -> None:
    """Image files are found by their endings, each once; named files may have any ending, and other files are
    counted."""
    touch(tmp_path, 'b.JPG', 'a.png', 'c.tif', '.hidden.jpg', 'deep/d.webp', '.git/e.jpg', 'deep/er/f.jpeg')
    found, others = find_images([tmp_path, tmp_path / 'c.tif', tmp_path / 'a.png'])
    assert [path.name for path in found] == ['a.png', 'b.JPG', 'c.tif']
    assert others == 2
    found, others = find_images([tmp_path], recursive=True)
    assert [path.name for path in found] == ['a.png', 'b.JPG', 'd.webp', 'f.jpeg']
    assert others == 2


@pytest.mark.parametrize(
    ('files', 'folders'),
    [
        (['a/b/1.jpg', 'a/b/2.jpg'], ['a/b']),
        (['a/b/1.jpg', 'a/2.jpg'], ['a']),
        (['a/bc/1.jpg', 'a/bd/2.jpg'], ['a']),
        (['a/1.jpg', 'b/c/2.jpg', 'b/3.jpg'], ['a', 'b']),
    ],
)
def test_the_narrowest_folder_is_served(files: list[str], folders: list[str]) -> None:
    """The narrowest common folder is served, and never the document root, which Label Studio refuses."""
    assert folders_to_serve([PurePosixPath(file) for file in files]) == [PurePosixPath(folder) for folder in folders]
    with pytest.raises(InvalidRequest, match=r'loose\.jpg lies directly in the document root'):
        folders_to_serve([PurePosixPath(file) for file in [*files, 'loose.jpg']])


def test_a_local_file_is_named_from_the_document_root(tmp_path: Path) -> None:
    """A local file is named relative to the document root, also through links, and files outside are refused."""
    touch(tmp_path, 'root/a b/1.jpg', 'other/2.jpg')
    (tmp_path / 'link').symlink_to(tmp_path / 'root')
    local = LocalFiles(root=tmp_path / 'root')
    assert local.below(tmp_path / 'root' / 'a b' / '1.jpg') == PurePosixPath('a b/1.jpg')
    assert local.below(tmp_path / 'link' / 'a b' / '1.jpg') == PurePosixPath('a b/1.jpg')
    for path in (tmp_path / 'other' / '2.jpg', tmp_path / 'root' / '..' / 'other' / '2.jpg'):
        with pytest.raises(InvalidRequest, match='does not lie below --document-root'):
            local.below(path)
