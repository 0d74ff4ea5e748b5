"""`wholebody labelstudio config`, `init` and `import`: a project and its images."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..skeleton import PART_BY_NAME


class ConfigStyle(StrEnum):
    """Of regions."""

    SKELETON = 'skeleton'
    KEYPOINTS = 'keypoints'


def config(
    style: Annotated[
        ConfigStyle, typer.Option(help='A region per person with its limbs, or one per keypoint.')
    ] = ConfigStyle.SKELETON,
    parts: Annotated[
        str | None, typer.Option(help='Only these, e.g. body,left_hand.', show_default=','.join(PART_BY_NAME))
    ] = None,
    output: Annotated[
        Path | None, typer.Option('--output', '-o', help='File to write.', show_default='print it')
    ] = None,
) -> None:
    """The recommended labeling config, to be pasted into a project's settings."""
    from ..label_studio.config import generate

    chosen = tuple(PART_BY_NAME) if parts is None else [part.strip() for part in parts.split(',')]
    xml = generate(style.value, chosen)
    if output is None:
        print(xml, end='')
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(xml)
    print(output)
