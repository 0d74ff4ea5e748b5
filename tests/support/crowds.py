"""An image of many persons."""

from benchmarks.support.cards import make_card
from detector.pose import images
from mock.test_card.cards import arrange

CROWD = images.encode_jpeg(make_card(arrange(12, (1600, 1200)), width=1600, height=1200))
"""JPEG of a card with twelve persons, which keeps the node busy for a while."""
