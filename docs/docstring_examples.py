"""Griffe extension that shows the interactive examples in docstrings as code, which Sphinx style does not support."""

import re
from typing import Any, Final

import griffe

_EXAMPLE: Final = re.compile(r'^>>> .*\n?(?:^(?!:param|:return|:raises).+\n?)*', re.MULTILINE)
"""A prompt and the lines after it, up to an empty line or a field."""


class DocstringExamples(griffe.Extension):
    """Put each example between fences."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(
                lambda example: f'```pycon\n{example[0].rstrip()}\n```\n', obj.docstring.value
            )
