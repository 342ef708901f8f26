r"""
Gradient descent, momentum, Nesterov
====================================

Near a minimum every smooth loss is a quadratic. In the directions of its eigenvectors it is

.. math:: f(x) = \tfrac12 \sum_i \lambda_i (x_i - 1)^2, \qquad \lambda_1 = 1, \ \lambda_2 = 100,

a ravine with the condition :math:`\kappa = \lambda_2 / \lambda_1 = 100`. Steps must be short enough for the steep
direction, and then they are short in the flat one. With the learning rate :math:`\alpha`, gradient descent multiplies
the distance :math:`x_i - 1` by :math:`1 - \alpha \lambda_i` in each step. Momentum keeps a part :math:`\beta` of the
last step, :math:`b \leftarrow \beta b + \nabla f(x)`, :math:`x \leftarrow x - \alpha b`, and Nesterov takes the
gradient where that part alone would lead. Then a distance follows from the two before it, and in the long run each step
multiplies it by the largest absolute eigenvalue of a 2 x 2 matrix: the rate.
"""

import numpy as np
from pictures import COLOURS, show, subplots
from setting import SHORT

import fastopt

SIZE, STEPS = (16, 100) if SHORT else (32, 120)
CURVATURE = np.array([1.0, 100.0])


def gradient(x):
    return CURVATURE * (x - 1)


def run(steps, **options):
    """Return the points of a run of SGD from 0."""
    x = np.zeros(2)
    opt = fastopt.SGD(x, **options)
    points = [x.copy()]
    for _ in range(steps):
        opt.step(gradient(x))
        points.append(x.copy())
    return np.array(points)


def theory(lr, momentum=0.0, nesterov=False, dampening=0.0, weight_decay=0.0):
    """Return the rate: the distance to where the run ends, times this number, is the distance one step later."""
    rates = []
    for curvature in CURVATURE + weight_decay:
        shrink = 1 - lr * (1 - dampening) * curvature
        first, second = (shrink * (1 + momentum), shrink * momentum) if nesterov else (shrink + momentum, momentum)
        rates.append(abs(np.linalg.eigvals([[first, -second], [1, 0]])).max())
    return max(rates)


def rate_of(points, end=1.0):
    """Return the rate of the second half of a run, between its largest distances in windows of ten steps."""
    distance = np.linalg.norm(points - end, axis=-1)
    half = len(points) // 2
    return (distance[-10:].max(axis=0) / distance[half : half + 10].max(axis=0)) ** (1 / (len(points) - 10 - half))


# %%
# The best settings are known (Lessard, Recht and Packard, 2016). For :math:`\kappa = 100`:
#
# - gradient descent: :math:`\alpha = 2 / (\lambda_1 + \lambda_2)`, with the rate
#   :math:`\frac{\kappa - 1}{\kappa + 1} = 0.980`;
# - momentum: :math:`\alpha = 4 / (\sqrt{\lambda_1} + \sqrt{\lambda_2})^2` and :math:`\beta` the square of the rate,
#   :math:`\frac{\sqrt\kappa - 1}{\sqrt\kappa + 1} = 0.818`;
# - Nesterov: :math:`\alpha = 4 / (\lambda_1 + 3 \lambda_2)`,
#   :math:`\beta = \frac{\sqrt{3 \kappa + 1} - 2}{\sqrt{3 \kappa + 1} + 2}`, with the rate
#   :math:`1 - 2 / \sqrt{3 \kappa + 1} = 0.885`.
#
# Dashed lines have the slope that theory gives. A step of momentum is worth ten of gradient descent.

root = 301**0.5
BEST = {
    "gradient descent": {"lr": 2 / 101},
    "momentum": {"lr": 4 / 11**2, "momentum": (9 / 11) ** 2},
    "Nesterov": {"lr": 4 / 301, "momentum": (root - 2) / (root + 2), "nesterov": True},
}
figure, (plane, curves) = subplots(1, 2)
rates = {}
for (name, options), colour in zip(BEST.items(), COLOURS, strict=False):
    points = run(120, **options)
    rates[name] = rate_of(points), theory(**options)
    plane.plot(*points.T, ".-", color=colour, linewidth=1, markersize=4)
    curves.semilogy(np.linalg.norm(points - 1, axis=1), color=colour, label=name)
    curves.semilogy(theory(**options) ** np.arange(121), "--", color=colour)
    print(f"{name}: rate {rates[name][0]:.3f}, theory {rates[name][1]:.3f}")
plane.set(xlabel="$x_1$, flat", ylabel="$x_2$, steep", title="paths from (0, 0) to (1, 1)")
curves.set(xlabel="step", title="distance to the minimum", ylim=(1e-9, 4))
curves.legend()

# %%
# Nesterov's gradient is that of the looked-ahead point :math:`x - \alpha \beta b`, and ``opt.lookahead()`` shifts the
# parameters there. The form that libraries use, ``nesterov=True``, is rearranged: its parameters *are* the looked-ahead
# points, so that the gradient is always taken at the parameters. Both are the same sequence.

x, ahead, visited = np.zeros(2), [np.zeros(2)], [np.zeros(2)]
opt = fastopt.SGD(x, lr=BEST["Nesterov"]["lr"], momentum=BEST["Nesterov"]["momentum"])
for _ in range(30):
    with opt.lookahead():
        grad = gradient(x)
    opt.step(grad)
    visited.append(x.copy())
    with opt.lookahead():
        ahead.append(x.copy())
rearranged = run(30, **BEST["Nesterov"])

figure, ax = subplots(figsize=(7, 3))
ax.plot(*np.transpose(visited), ".-", label="parameters with lookahead()", linewidth=1)
ax.plot(*np.transpose(ahead), "x", label="looked-ahead points", markersize=9)
ax.plot(*rearranged.T, "o", label="parameters with nesterov=True", fillstyle="none", markersize=9)
ax.set(xlabel="$x_1$", ylabel="$x_2$")
ax.legend()

# %%
# Learning rate and momentum together: each point of these maps is a run, and all are groups of one optimizer. Beyond
# the white line the rate is above 1, and the run diverges. Momentum allows larger learning rates, up to
# :math:`2 (1 + \beta) / \lambda_2`; with Nesterov they must stay below
# :math:`\frac{2 + 2 \beta}{1 + 2 \beta} / \lambda_2`, which falls as :math:`\beta` grows.

lrs, momenta = np.geomspace(1e-3, 0.05, SIZE), np.linspace(0, 0.97, SIZE)
figure, axes = subplots(2, 2, sharex=True, sharey=True)
errors = []
for row, nesterov in zip(axes, (False, True), strict=True):
    points = np.zeros((len(momenta), len(lrs), 2))
    pairs = [(momentum, lr) for momentum in momenta for lr in lrs]
    groups = [
        {"params": x, "lr": lr, "momentum": momentum, "nesterov": nesterov and momentum > 0}
        for x, (momentum, lr) in zip(points.reshape(-1, 2), pairs, strict=True)
    ]
    opt, path = fastopt.SGD(groups), []
    for _ in range(STEPS):
        path.append(points.copy())
        opt.step(list(gradient(points).reshape(-1, 2)))
    expected = np.reshape([theory(lr, momentum, nesterov) for momentum, lr in pairs], points.shape[:2])
    errors.append(abs(rate_of(np.array(path)) - expected))
    for ax, rate, label in zip(row, (rate_of(np.array(path)), expected), ("measured", "theory"), strict=True):
        image = ax.pcolormesh(lrs, momenta, rate, vmin=0.8, vmax=1.1, cmap="cividis", shading="nearest")
        ax.contour(lrs, momenta, rate, [1.0], colors="white")
        ax.set(xscale="log", title=f"{'Nesterov' if nesterov else 'momentum'}, {label}")
figure.supxlabel("learning rate")
figure.supylabel("momentum")
figure.colorbar(image, ax=axes, label="factor of the distance in a step", extend="both")

# %%
# One hyperparameter at a time, the others at the learning rate 0.015 and the momentum 0.6. Dots are runs, lines the
# theory. Too small a learning rate is slow in the flat direction, too large a one diverges in the steep one. Too little
# momentum is slow; too much swings, and takes as long to come to rest. Dampening :math:`\tau` scales the gradients in
# the buffer by :math:`1 - \tau`, as a smaller learning rate does. Weight decay :math:`w` adds :math:`w` to every
# curvature: the flat direction gets faster, and the run ends at :math:`x_i = \lambda_i / (\lambda_i + w)` instead of
# the minimum.

VALUES = {
    "lr": (0.003, 0.015, 0.03, 0.033),
    "momentum": (0.0, 0.6, 0.77, 0.95),
    "dampening": (0.0, 0.5, 0.9),
    "weight_decay": (0.0, 1.0, 5.0),
}
steps = np.arange(81)
figure, axes = subplots(2, 2, sharex=True, sharey=True, figsize=(7, 5.4))
one_by_one = []
for ax, (option, values) in zip(axes.flat, VALUES.items(), strict=True):
    for value, colour in zip(values, COLOURS, strict=False):
        options = {"lr": 0.015, "momentum": 0.6, option: value}
        points, rate = run(80, **options), theory(**options)
        end = CURVATURE / (CURVATURE + options.get("weight_decay", 0.0))
        one_by_one.append((rate_of(points, end), rate))
        ax.semilogy(steps[::4], np.linalg.norm(points - end, axis=1)[::4], ".", color=colour)
        ax.semilogy(steps, rate**steps, color=colour, linewidth=1, label=f"{value:.2g}: rate {rate:.3f}")
    ax.set(title=option, ylim=(1e-9, 1e2))
    ax.legend(loc="lower left", fontsize="small", handlelength=1)
figure.supxlabel("step")
figure.supylabel("distance to where the run ends")
show()

# %%
# Theory is about the long run. In the best settings of momentum and Nesterov two eigenvalues are equal, and the
# distance after :math:`t` steps is about :math:`t` times the rate to the power :math:`t`. So the measured rate is a
# little above the theory's.

print(f"mean difference of the maps: {errors[0].mean():.3f}, {errors[1].mean():.3f}")
for name, (rate, expected) in rates.items():
    assert abs(rate - expected) < 0.015, name
assert np.allclose(ahead, rearranged, rtol=0, atol=1e-12)
assert max(error.mean() for error in errors) < 0.01
assert np.allclose(*np.transpose(one_by_one), rtol=0, atol=0.02)
