"""Reports without their drawings, for tests of what a run stores, tells and refuses: drawing takes most of its time."""

from collections.abc import Iterator
from typing import IO

import pytest
from matplotlib.figure import Figure

EMPTY = '<svg viewBox="0 0 1 1"></svg>'


@pytest.fixture(autouse=True, scope="module")
def undrawn_plots() -> Iterator[None]:
    """Leave figures undrawn in this process; a conftest imports it for its folder."""

    def leave_undrawn(figure: Figure, stream: IO[str], **_: object) -> None:
        stream.write(EMPTY)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", leave_undrawn)
        yield
