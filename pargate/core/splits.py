"""Sizes of the splits of a gate's images."""

ENOUGH = 512
"""Images with which a split that chooses may be smaller than the last: a search then has the images that it needs."""


def sizes(images: int, splits: int) -> list[int]:
    """Return the number of images of each split.

    Two splits are equal. Of three, the last compares accuracies and needs most: of few images each gets an equal part,
    of more the first two get `ENOUGH` each, of many a quarter each.
    """
    each = images // splits if splits < 3 else max(images // 4, min(images // splits, ENOUGH))
    return [each] * (splits - 1) + [images - each * (splits - 1)]


def least(each: int, splits: int) -> int:
    """Return the smallest number of images of which every split gets `each`."""
    return each * splits if splits < 3 or each <= ENOUGH else each * 4


def total(images: int) -> int:
    """Return the number of images of which the last of three splits gets `images`."""
    return max(2 * images, images + 2 * min(images, ENOUGH))
