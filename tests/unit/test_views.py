"""What calibration makes of one picture."""

import numpy as np
import pytest

from iseg_tvm.quantization.calibration import all_views, views
from tests.helpers import random_image


def colour(picture: np.ndarray) -> float:
    return float(np.ptp(picture, axis=2).mean())


@pytest.mark.parametrize("size", [(32, 48), (17, 5), (1, 1)])
@pytest.mark.parametrize("tinted", [False, True])
def test_views_are_twelve_pictures_of_its_size(size: tuple[int, int], tinted: bool) -> None:
    picture = random_image(*size, 1)
    made = views(picture, tinted=tinted)
    assert len(made) == 12
    assert all(view.shape == picture.shape and view.dtype == np.uint8 for view in made)
    np.testing.assert_array_equal(made[0], picture)


def test_pictures_are_tinted_only_if_none_has_colour() -> None:
    picture = random_image(32, 48, 1)
    grey = np.repeat(picture[..., :1], 3, axis=2)
    for images, coloured in (([grey, grey], [6, 6]), ([grey, picture], [0, 10]), ([picture], [10])):
        made = [sum(colour(view) > 20 for view in shown) for shown in all_views(images)]
        assert made == coloured
    np.testing.assert_array_equal(next(iter(all_views([picture])))[3], picture[:, :, ::-1])
