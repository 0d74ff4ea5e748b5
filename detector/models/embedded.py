"""The embedded models, and paths of the files that ship with the project: test card, catalogue of models."""

from pathlib import Path
from typing import Final, Literal

_PACKAGE: Final = Path(__file__).parent.parent
MODEL_FILES: Final = next(
    folder for folder in (_PACKAGE / 'model_files', _PACKAGE.parent / 'model_files') if folder.is_dir()
)
"""Folder of these files: inside the package in a wheel, beside it in a checkout."""
EMBEDDED_PACKAGE: Final = MODEL_FILES / 'test-card.zip'
EXAMPLE_CARD: Final = MODEL_FILES / 'test-card.jpg'
CATALOGUE: Final = MODEL_FILES / 'catalogue.json'
"""Catalogue of the published models: addresses, input sizes, colour orders, and hashes if known."""
Mode = Literal['lightweight', 'balanced', 'performance']
"""Name of a published model in the catalogue."""
STARTER_NAME: Final = 'starter'
TEST_CARD_NAME: Final = 'test-card'
TEST_CARD_FOLDER: Final = 'embedded'
"""Folder in DATA_FOLDER into which the test card model is unpacked."""
EMBEDDED_NAMES: Final = (STARTER_NAME, TEST_CARD_NAME)
"""Names of the embedded models. They serve where no model is installed, the first one that works."""
EMBEDDED_VERSIONS: Final = '0.'
"""Beginning of the embedded models' versions, which are lower than any version of a Learning Loop."""

_ABILITIES: Final = {
    STARTER_NAME: 'The starter model serves. It finds people in photographs; a published model finds them better',
    TEST_CARD_NAME: 'The test card model serves. It reads test cards and finds no person in a photograph',
}
"""What a client should know about an embedded model that serves, by name."""
INSTALL_HINT: Final = (
    'Press "Get a published model" on the page /ui, or run `wholebody model pull balanced` and start the node again; '
    '`wholebody model available` lists the published models, and `wholebody model install` installs a package of yours'
)
"""How to get a better model than an embedded one."""
RESTART_HINT: Final = (
    'A model is installed, which serves from the next start on: `wholebody model list` names it, and '
    '`wholebody model use` with the option `--url` lets this node switch to it now'
)
"""How to serve an installed model while an embedded one serves."""


def is_embedded_folder(folder: Path, data_folder: Path) -> bool:
    """Return True if a package lies where this project makes embedded models, and not where packages are installed.

    :param data_folder: DATA_FOLDER.
    """
    places = (MODEL_FILES, data_folder / STARTER_NAME, data_folder / TEST_CARD_FOLDER)
    return any(folder.is_relative_to(place) for place in places)


def embedded_name(mode: str) -> str:
    """Return the embedded model that serves where no model is installed.

    :param mode: value of MODE; a published model's name stands for the starter model.
    """
    return TEST_CARD_NAME if mode == TEST_CARD_NAME else STARTER_NAME


def embedded_notice(name: str, *more: str) -> str:
    """Return what a client should know while an embedded model serves.

    :param more: further sentences, without their full stops.
    """
    return '. '.join([_ABILITIES[name], *(f'{text[:1].upper()}{text[1:]}' for text in more)])
