"""The starter model: finds poses in photographs without a download beyond the packages.

Its pose estimator is built from networks of MediaPipe, which are read as data from an installed wheel; its person
detector ships with the project.
"""

from detector.errors import StarterUnavailable
from detector.models.embedded import STARTER_NAME

from .build import starter_package

__all__ = ['STARTER_NAME', 'StarterUnavailable', 'starter_package']
