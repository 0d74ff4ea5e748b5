"""Check of the installed OpenCV distributions.

Each distribution contains the module `cv2`, so that each overwrites files of the others.
"""

from importlib.metadata import distributions
from importlib.util import find_spec


def opencv_distributions() -> list[str]:
    """Return the names of the installed OpenCV distributions, e.g. `opencv-python-headless`."""
    names = {(distribution.name or '').lower() for distribution in distributions()}
    return sorted(name for name in names if name.startswith('opencv-'))


def opencv_fault() -> str | None:
    """Return what is wrong with the installed OpenCV and the command that repairs it, or None.

    A system package, such as Debian's python3-opencv, brings `cv2` without a distribution of these names.
    """
    found = opencv_distributions()
    if not found and find_spec('cv2') is None:
        return 'OpenCV is not installed; repair it: pip install opencv-python-headless'
    if len(found) <= 1:
        return None
    return (
        f'{", ".join(found)} are installed and overwrite each other; repair it: '
        f'pip uninstall -y {" ".join(found)} && pip install opencv-python-headless'
    )
