"""The files that ship with the project."""

from detector.models.embedded import CATALOGUE, EXAMPLE_CARD, TEST_CARD_NAME
from detector.models.package import ModelPackage
from detector.pose import images


def test_the_shipped_files_are_there(embedded: ModelPackage) -> None:
    """The embedded package has the name that the node looks for; the example card is an image."""
    assert embedded.name == TEST_CARD_NAME
    assert images.read_image(EXAMPLE_CARD).ndim == 3
    assert CATALOGUE.is_file()
