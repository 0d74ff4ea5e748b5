"""Options of `wholebody labelstudio queue`."""

import pytest

from detector.cli.main import app
from tests.support.commands import invoke


@pytest.mark.parametrize('options', [[], ['--by', 'diversity'], ['--by', 'uncertainty', '--part', 'hands']])
def test_the_label_stream_only_follows_scores(options: list[str]) -> None:
    """`--stream` is refused for an order that is not that of the predictions' scores, with the alternatives."""
    result = invoke(app, 'labelstudio', 'queue', '--project', 7, '--stream', *options)
    assert result.exit_code == 2
    assert '--by uncertainty' in ' '.join(result.output.replace('│', ' ').split())
