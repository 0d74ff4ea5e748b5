"""A photograph of a person that an installed package ships."""

from pathlib import Path

from matplotlib.cbook import get_sample_data

from detector.pose import images
from detector.pose.images import Image


def portrait() -> Image:
    """Return the portrait of Grace Hopper from matplotlib's sample data, 512×600 pixels."""
    return images.read_image(Path(str(get_sample_data('grace_hopper.jpg', asfileobj=False))))
