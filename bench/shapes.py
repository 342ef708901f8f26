"""The arrays that are stepped: from one large array to a thousand small ones."""

import itertools
import math
from typing import NamedTuple

Shape = tuple[int, ...]


class ArraySet(NamedTuple):
    """Shapes of the parameters, and whether every step gets new gradient arrays."""

    shapes: list[Shape]
    fresh: bool = False

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


def mlp(*widths: int) -> list[Shape]:
    """Weights and biases of fully connected layers of these widths."""
    return [shape for fan_in, fan_out in itertools.pairwise(widths) for shape in ((fan_in, fan_out), (fan_out,))]


def gpt2_small() -> list[Shape]:
    """The 148 arrays of GPT-2 small (12 layers, width 768; the output shares the token embedding)."""
    d = 768
    norm = [(d,), (d,)]
    attention = [(d, 3 * d), (3 * d,), (d, d), (d,)]
    feed_forward = [(d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    block = norm + attention + norm + feed_forward
    return [(50257, d), (1024, d), *block * 12, *norm]


def resnet50() -> list[Shape]:
    """The 161 arrays of ResNet-50: convolutions (out, in, height, width), batch norms, one linear layer."""

    def convolution(fan_in: int, fan_out: int, size: int) -> list[Shape]:
        return [(fan_out, fan_in, size, size), (fan_out,), (fan_out,)]  # the kernel; its batch norm's scale and shift

    shapes = convolution(3, 64, 7)
    fan_in = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        fan_out = 4 * width
        for block in range(blocks):
            shapes += convolution(fan_in, width, 1) + convolution(width, width, 3) + convolution(width, fan_out, 1)
            if block == 0:
                shapes += convolution(fan_in, fan_out, 1)  # the shortcut
            fan_in = fan_out
    return [*shapes, (1000, 2048), (1000,)]


ARRAYS = {
    "one of 64M": ArraySet([(1 << 26,)]),
    "GPT-2 small, 148 arrays, 124M": ArraySet(gpt2_small()),
    "ResNet-50, 161 arrays, 25.6M": ArraySet(resnet50()),
    "one of 200k": ArraySet([(200_000,)]),
    "MLP, 6 arrays, 0.24M": ArraySet(mlp(784, 256, 128, 10)),
    "1,000 of 256": ArraySet([(256,)] * 1000),
    "1,000 of 256, fresh gradients": ArraySet([(256,)] * 1000, fresh=True),
}
NETS = {
    "-".join(map(str, widths)): ArraySet(mlp(*widths))
    for widths in ((8, 16, 2), (64, 32, 10), (64, 384, 192, 10), (784, 256, 128, 10), (784, 1024, 1024, 10))
}
TINY = {f"{count:,} array{'s' * (count > 1)}": ArraySet([(16,)] * count) for count in (1, 4, 6, 20, 100, 1000)}
MANY = {f"{count:,} arrays": ArraySet([(1,)] * count) for count in (6, 100, 10_000, 100_000)}
GIGA = {"one of 1G": ArraySet([(1 << 30,)])}
SIZES = {
    f"{size >> 20}M" if size >= 1 << 20 else f"{size >> 10}K": ArraySet([(size,)])
    for size in (1 << power for power in range(10, 29, 2))
}
DECADES = {
    f"{size:,}": ArraySet([(size,)]) for power in range(1, 9) for size in (10**power, 3 * 10**power) if size <= 10**8
}
