r"""
Continuation by blurring, and curriculum learning
=================================================

Descent ends in the valley in which it begins. Continuation begins with an easier function instead, and follows its
minimum while the function changes, step by step, into the one that is meant.

A way to an easier function is to blur it: :math:`f_\sigma(x)` is the mean of :math:`f(x + \sigma z)` over normal
:math:`z`. Blurring leaves a quadratic as it is, up to a constant, and makes a wave with the wave vector :math:`k` lower
by the factor :math:`e^{-\sigma^2 |k|^2 / 2}`: the narrow valleys go first, and the widest one stays.
"""

import numpy as np
from pictures import COLOURS, GREY, show, subplots
from setting import SHORT

import fastopt

LANDSCAPES, STARTS, GRID = (6, 30, 151) if SHORT else (20, 200, 401)


class Landscape:
    """A bowl with twelve waves on it, of random directions and phases; the shorter a wave, the lower it is."""

    def __init__(self, seed, dimensions=2):
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(12, dimensions))
        wavenumbers = np.geomspace(0.7, 5, 12)[:, None]
        self.k = wavenumbers * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self.phase = rng.uniform(0, 2 * np.pi, 12)

    def heights(self, sigma):
        squares = (self.k**2).sum(axis=1)
        return 0.6 * squares**-0.25 * np.exp(-(sigma**2) * squares / 2)

    def loss(self, x, sigma=0.0):
        return 0.1 * (x**2).sum(axis=-1) + np.cos(x @ self.k.T + self.phase) @ self.heights(sigma)

    def gradient(self, x, sigma=0.0):
        return 0.2 * x - (np.sin(x @ self.k.T + self.phase) * self.heights(sigma)) @ self.k

    def rate(self, sigma=0.0):
        """Return a learning rate that is safe everywhere: one over the largest curvature that there may be."""
        return 1 / (0.2 + self.heights(sigma) @ (self.k**2).sum(axis=1))


BLURS, NO_BLURS = np.append(np.geomspace(2, 0.1, 20), 0), np.zeros(21)


def descend(landscape, x, blurs, gradient):
    """Make 20 steps of gradient descent with each blur, from all rows of x at once; return where each blur ends."""
    opt, path = fastopt.SGD(x, lr=landscape.rate()), []
    for sigma in blurs:
        opt.lr = landscape.rate(sigma)  # blurring lowers the curvature: larger steps are safe
        for _ in range(20):
            opt.step(gradient(x, sigma))
        path.append(x.copy())
    return np.array(path)


# %%
# In one dimension: the points are where a run from x = -5 is when it leaves each blur. With a wide blur there is one
# valley. As the blur gets narrower the valley divides, and the run is in the part that was lower. The cross is the end
# of plain descent from the same start.

line = Landscape(11, dimensions=1)
x = np.linspace(-6, 6, 401)[:, None]
start = np.array([[-5.0]])
blurred = descend(line, start.copy(), BLURS, line.gradient)[:, 0]
plain = descend(line, start.copy(), NO_BLURS, line.gradient)[-1]
_, ax = subplots(figsize=(7, 4))
for lift, number, colour in zip((6, 4, 2, 0), (0, 7, 12, 20), COLOURS, strict=False):
    sigma = BLURS[number]
    ax.plot(x, line.loss(x, sigma) + lift, color=colour, label=rf"$\sigma$ = {sigma:.2g}")
    ax.plot(blurred[number], line.loss(blurred[number], sigma) + lift, "o", color=colour, markersize=8)
ax.plot(plain, line.loss(plain), "X", color=COLOURS[3], markersize=9)
ax.set(xlabel="x", ylabel="loss, one above the other", yticks=[])
ax.legend()

# %%
# In two dimensions, with about thirty minima each. Blurs are known in closed form here. For any other loss, a network's
# for example, a gradient at :math:`x + \sigma z` with a new :math:`z` in each step is that of the blurred loss, plus
# noise: "sampled".

rng = np.random.default_rng(0)
starts = np.random.default_rng(1).uniform(-5, 5, (STARTS, 2))
METHODS = {
    "plain descent": (starts, NO_BLURS, lambda landscape: landscape.gradient),
    "plain, from the middle": (np.zeros((1, 2)), NO_BLURS, lambda landscape: landscape.gradient),
    "blurred": (starts, BLURS, lambda landscape: landscape.gradient),
    "sampled": (starts, BLURS, lambda landscape: lambda x, s: landscape.gradient(x + s * rng.normal(size=x.shape))),
}
grid = np.stack(np.meshgrid(np.linspace(-5, 5, GRID), np.linspace(-5, 5, GRID)), axis=-1)
found, paths = {name: [] for name in METHODS}, {}
for seed in range(LANDSCAPES):
    landscape = Landscape(seed)
    for name, (start, blurs, gradient_of) in METHODS.items():
        paths[seed, name] = descend(landscape, start.copy(), blurs, gradient_of(landscape))
        found[name].append((landscape.loss(paths[seed, name][-1]) < landscape.loss(grid).min() + 0.02).mean())

# %%
# The first of these landscapes, with and without blur. The star is its lowest point, the dots are where the runs are.

landscape = Landscape(0)
lowest = grid.reshape(-1, 2)[landscape.loss(grid).argmin()]
_, axes = subplots(2, 2, figsize=(7, 7))
pictures = {
    r"blurred, $\sigma$ = 2": ("blurred", 0),
    rf"blurred, $\sigma$ = {BLURS[8]:.2g}": ("blurred", 8),
    "blurred, at the end": ("blurred", 20),
    "plain descent, at the end": ("plain descent", 20),
}
for ax, (title, (name, number)) in zip(axes.flat, pictures.items(), strict=True):
    sigma = METHODS[name][1][number]
    ax.contour(*grid.T, landscape.loss(grid, sigma).T, 12, colors=GREY, linewidths=0.5, alpha=0.6)
    ax.plot(*lowest, "*", color=GREY, markersize=16)
    ax.plot(*paths[0, name][number].T, "o", color=COLOURS[2 if name == "blurred" else 1], markersize=4)
    ax.set(title=title, xlim=(-5, 5), ylim=(-5, 5), xticks=[], yticks=[])

# %%
# Continuation brings all starts to one minimum, as it forgets where it began. That it is the lowest one is likely, not
# certain: a wide valley wins against a deep one. Nor is it simply the one in the middle of the bowl: descent from there
# finds the lowest minimum of few landscapes.
#
# These landscapes are kind to blurring. With waves of other heights (the factor 0.6 replaced by 0.4 or 1, the exponent
# -0.25 by 0 or -0.5) blurring finds the lowest minimum less often, but still more often than plain descent.

_, ax = subplots(figsize=(7, 3))
for (name, fractions), marker, colour in zip(found.items(), "XPos", COLOURS[1::-1] + COLOURS[2:], strict=False):
    percent = 100 * np.array(fractions)
    ax.plot(range(LANDSCAPES), percent, marker, color=colour, label=f"{name}: {percent.mean():.0f} %", alpha=0.8)
ax.set(xlabel="landscape", ylabel="% that find the lowest", xticks=range(LANDSCAPES))
ax.figure.legend(loc="outside upper center", ncols=2)

# %%
# **A curriculum** does the same with the examples: easy ones first (Bengio and others, 2009). The model is
# :math:`y = \sin(w t)`, and the examples are noisy values of :math:`\sin(3 t)` for times t from 0 to 10. Early ones are
# easy: as a function of w, their loss has one minimum, and that of late ones has many. But early ones alone say little
# about w.

LONGEST, STEPS = 10.0, 600


def train(ranges):
    """Train from many first values of w at once; each step draws 16 examples from its range of times."""
    rng, w = np.random.default_rng(0), np.linspace(0.5, 6, STARTS)
    opt = fastopt.SGD(w, lr=1.0)
    for earliest, latest in ranges:
        t = rng.uniform(earliest, latest, (16, 1))
        error = np.sin(w * t) - (np.sin(3 * t) + rng.normal(0, 0.1, t.shape))
        opt.lr = 1 / latest**2
        opt.step((2 * error * t * np.cos(w * t)).mean(axis=0))
    return abs(w - 3)


growing = np.minimum(0.5 * (LONGEST / 0.5) ** (np.arange(STEPS) / (0.75 * STEPS)), LONGEST)
ORDERS = {
    "random order": [(0, LONGEST)] * STEPS,
    "hard ones first": [(LONGEST - length, LONGEST) for length in growing],
    "easy ones only": [(0, 0.5)] * STEPS,
    "easy ones first": [(0, length) for length in growing],
}
figure, (left, right) = subplots(1, 2)
w = np.linspace(0.5, 6, 300)
for latest, colour in zip((10, 2, 0.5), COLOURS, strict=False):
    t = np.linspace(0, latest, 200)[:, None]
    left.plot(w, ((np.sin(w * t) - np.sin(3 * t)) ** 2).mean(axis=0), color=colour, label=f"t up to {latest}")
left.set(xlabel="w", ylabel="loss", ylim=(-0.05, 2.2))
left.legend()

errors = {name: train(ranges) for name, ranges in ORDERS.items()}
for (name, error), size in zip(errors.items(), (7, 3, 3, 3), strict=True):
    right.semilogy(np.linspace(0.5, 6, STARTS), error, "o", markersize=size, label=name)
right.set(xlabel="first value of w", ylabel="error of w after training")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4)
show()

# %%
# The curriculum reaches the minimum from everywhere, and is the more precise for its late examples. It helps where hard
# examples have misleading gradients; where they are merely noisy or rare, a random order is as good.

print({name: f"{np.median(error):.2g}" for name, error in errors.items()})
assert abs(line.loss(blurred[-1]) - line.loss(x).min()) < 0.01 < line.loss(plain[0]) - line.loss(x).min()
assert found["blurred"][0] == 1 > 4 * found["plain descent"][0]
assert min(np.mean(found["blurred"]), np.mean(found["sampled"])) > 2 * np.mean(found["plain descent"])
assert max(errors["easy ones first"]) < 0.01 < min(errors["easy ones only"])
assert np.median(errors["random order"]) > 0.5
