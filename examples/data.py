"""The data of the gallery's scripts: scikit-learn's images of handwritten digits, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

TRAIN = 1280

#: How many holes each digit has, from 0 to 9: the labels of another task.
HOLES = np.array([1, 0, 0, 0, 1, 0, 1, 0, 2, 1])


def digits(
    count: int | None = None, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return train_x, train_y, test_x and test_y: 1280 and 517 images of 8 x 8 pixels, and their labels from 0 to 9.

    An image is a row of 64 float32 values from 0 to 1; ``x.reshape(-1, 1, 8, 8)`` is what a convolution takes. The
    split is always the same. With `count`, only so many of the training images are returned: those that `rng` draws,
    or the first ones.
    """
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:TRAIN], order[TRAIN:]
    if rng is not None:
        train = rng.permutation(train)
    train = train[:count]
    return images[train], labels[train], images[test], labels[test]


def batches(rng: np.random.Generator, count: int, size: int) -> Iterator[np.ndarray]:
    """Yield the indices of each batch of one epoch over `count` examples, in random order; the last may be smaller."""
    order = rng.permutation(count)
    for start in range(0, count, size):
        yield order[start : start + size]


def draws(rng: np.random.Generator, count: int, steps: int, size: int = 32) -> np.ndarray:
    """Return the indices of `steps` batches that are drawn from `count` examples, with repetition, one in each row."""
    return rng.integers(count, size=(steps, size))
