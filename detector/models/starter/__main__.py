"""Build the starter model into the installed project, as in an image: `python -m detector.models.starter`."""

from detector.models.embedded import MODEL_FILES, STARTER_NAME

from .build import build_starter

if __name__ == '__main__':
    print(build_starter(MODEL_FILES / STARTER_NAME))
