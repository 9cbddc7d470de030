"""Videos that the tests of training share."""

import pytest

from tests.helpers.moving_squares import write_videos


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder with two classes of three videos each."""
    return write_videos(tmp_path_factory.mktemp("squares") / "videos")
