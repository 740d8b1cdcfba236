"""What calibration makes of one picture."""

import numpy as np
import pytest

from iseg_tvm.quantization.calibration import views
from tests.helpers import random_image


def colour(picture: np.ndarray) -> float:
    return float(np.ptp(picture, axis=2).mean())


@pytest.mark.parametrize("size", [(32, 48), (17, 5), (1, 1)])
def test_views_are_twelve_pictures_of_its_size(size: tuple[int, int]) -> None:
    picture = random_image(*size, 1)
    for shown in (picture, np.repeat(picture[..., :1], 3, axis=2)):
        made = views(shown)
        assert len(made) == 12
        assert all(view.shape == shown.shape and view.dtype == np.uint8 for view in made)
        np.testing.assert_array_equal(made[0], shown)


def test_only_a_picture_without_colour_is_coloured() -> None:
    picture = random_image(32, 48, 1)
    np.testing.assert_array_equal(views(picture)[3], picture[:, :, ::-1])
    assert sum(colour(view) == 0 for view in views(picture)) == 2
    grey = np.repeat(picture[..., :1], 3, axis=2)
    assert sum(colour(view) > 20 for view in views(grey)) == 6
