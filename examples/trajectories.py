r"""
Trajectories of optimizers on loss surfaces
===========================================

The loss of a network has too many parameters for a picture. Functions of two parameters have the same difficulties:
the curved valley of Rosenbrock's function, the plateau between the walls of Beale's, the four equal minima of
Himmelblau's, a ravine (a quadratic with condition 50, across both axes), and a saddle, where a run begins almost on the
ridge and must leave sideways.

Each run begins at the grey point; stars are minima, dots are where runs end. An optimizer makes several runs at once,
with a group of parameters for each learning rate. The pictures show the one with the lowest mean loss in the second
half of its steps. Not drawn are AdamW and SparseAdam, which are Adam here, FTRL and Adafactor, which are close to
AdaGrad and RMSProp, and ASGD, which averages noise away where there is some.
"""

from functools import partial

import numpy as np
from matplotlib.animation import FuncAnimation
from pictures import COLOURS, GREY, show, subplots
from setting import SHORT

import fastopt
from fastopt import SGD, Adam

STEPS, FRAMES, GRID = (18, 6, 60) if SHORT else (200, 60, 120)
RATES = 10.0 ** np.array([-3, -2, -1, 0] if SHORT else np.arange(-3, 1.1, 0.5))

# The function, where runs begin, the minima, and the ranges of x and y in the picture.
SURFACES = {
    "Rosenbrock": (lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-1.2, 1), [(1, 1)], (-1.7, 1.7), (-0.5, 1.7)),
    "Beale": (
        lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
        *((1, 1.5), [(3, 0.5)], (-0.5, 4.5), (-1.5, 2)),
    ),
    "Himmelblau": (
        lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2,
        *((-0.5, -1), [(3, 2), (-2.81, 3.13), (-3.78, -3.28), (3.58, -1.85)], (-6, 6), (-5, 5)),
    ),
    "ravine": (
        lambda x, y: (0.8 * x - 0.6 * y) ** 2 / 2 + 25 * (0.6 * x + 0.8 * y) ** 2,
        *((-2, 0), [(0, 0)], (-2.5, 1), (-1, 1.5)),
    ),
    "saddle": (lambda x, y: (x**2 + (y**2 - 1) ** 2) / 2, (-1.5, 1e-3), [(0, -1), (0, 1)], (-2, 2), (-1.7, 1.7)),
}
PATHS = {}


def gradient(function, x, y):
    # A polynomial's derivative is the imaginary part after a tiny imaginary step.
    return np.stack([function(x + 1e-30j, y).imag, function(x, y + 1e-30j).imag], axis=-1) / 1e-30


def descend(optimizer, function, start, low, high):
    rates = np.atleast_1d(getattr(optimizer, "keywords", {}).get("lr", RATES))
    points = np.tile(start, (len(rates), 1, 1))  # matrices of one row: Muon takes nothing else
    opt = optimizer([{"params": point, "lr": rate} for point, rate in zip(points, rates, strict=True)])
    path = [points.copy()]
    for _ in range(STEPS):
        inside = ((points > low) & (points < high)).all(axis=(1, 2))  # a run that leaves the picture stops there
        grads = gradient(function, *points.T)[0][:, None]
        opt.step([grad if goes_on else None for grad, goes_on in zip(grads, inside, strict=True)])
        path.append(points.copy())
    path = np.array(path)[:, :, 0]
    return path[:, function(*path[STEPS // 2 :].T).mean(axis=1).argmin()]


def minimize(method, function, start):
    def hessian_times(point, v):
        return (gradient(function, *(point + 1e-6 * v)) - gradient(function, *(point - 1e-6 * v))) / 2e-6

    point, path = start.copy(), [start]
    hvp = hessian_times if method == "newton" else None
    loss_and_gradient = lambda point: (function(*point), gradient(function, *point))  # noqa: E731
    fastopt.minimize(loss_and_gradient, point, method, hvp=hvp, callback=lambda _: path.append(point.copy()))
    return np.array(path)


def draw(ax, surface):
    function, start, minima, x_range, y_range = SURFACES[surface]
    x, y = np.meshgrid(np.linspace(*x_range, GRID), np.linspace(*y_range, GRID))
    loss = function(x, y)
    ax.contour(x, y, loss, np.geomspace(loss.max() / 3000, loss.max(), 10), colors=GREY, linewidths=0.5, alpha=0.5)
    ax.plot(*np.transpose(minima), "*", color=GREY, markersize=9)
    ax.plot(*start, "o", color=GREY, markersize=5)
    ax.set(title=surface, xlim=x_range, ylim=y_range, xticks=[], yticks=[])


def compare(*classes, **variants):
    _, axes = subplots(2, 3, figsize=(7, 4.6))
    for ax, (surface, (function, start, _, *limits)) in zip(axes.flat, SURFACES.items(), strict=False):
        draw(ax, surface)
        start = np.array(start, float)
        for number, (name, optimizer) in enumerate(({each.__name__: each for each in classes} | variants).items()):
            if isinstance(optimizer, str):
                path = minimize(optimizer, function, start)
            else:
                path = descend(optimizer, function, start, *np.transpose(limits))
            ax.plot(*path.T, color=COLOURS[number], linewidth=2.4 - 0.3 * number, label=name)
            ax.plot(*path[-1], "o", color=COLOURS[number], markersize=5)
            PATHS[name, surface] = path
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center")


# %%
# **Momentum.** Gradient descent jumps from wall to wall of a ravine, or creeps along its floor. Momentum adds up what
# the gradients agree on; it passes a minimum and comes back. Nesterov's brakes earlier. All go along the ridge of the
# saddle to its lowest point before the gradient sideways, a thousandth at first, has grown.

nesterov = partial(SGD, momentum=0.9, nesterov=True)
compare(SGD, fastopt.ScheduleFreeSGD, momentum=partial(SGD, momentum=0.9), Nesterov=nesterov)

# %%
# **Gains, signs and norms.** The gains of delta-bar-delta grow while a gradient keeps its sign. Steps by signs are as
# long where it is flat as where it is steep, and leave the saddle at once. Rprop's grow and shrink; those of Signum,
# Lion and Muon keep their length, and so they end beside a minimum. LARS moves by a part of the parameters' norm.

muon = partial(fastopt.Muon, weight_decay=0.0)
compare(fastopt.DeltaBarDelta, fastopt.Rprop, fastopt.Signum, fastopt.Lion, fastopt.LARS, Muon=muon)

# %%
# **Squared gradients** make a rate for each parameter. That leaves the saddle at once too, and helps little in the
# ravine, which is steep along both axes. AdaDelta and Prodigy run with the rate 1, as they find their own: AdaDelta
# from the size of its steps so far, which are tiny at first, Prodigy from the distance it has come.

without_rate = {
    "Adadelta": partial(fastopt.Adadelta, lr=1.0),
    "Prodigy": partial(fastopt.Prodigy, lr=1.0, use_bias_correction=True),
}
compare(fastopt.Adagrad, fastopt.RMSprop, **without_rate)

# %%
# **Adam** has such rates and momentum, which goes in curves around a minimum. RAdam's first steps are those of
# momentum alone: where walls are steep, they are possible with small rates only, with which the later ones are slow.

amsgrad = partial(Adam, amsgrad=True)
compare(Adam, fastopt.Adamax, fastopt.NAdam, fastopt.RAdam, fastopt.LAMB, AMSGrad=amsgrad)

# %%
# **After Adam.** AdaBelief divides by how far gradients are from their mean, Yogi lets the divisor change slowly, Adan
# looks at the change of the gradient, AdEMAMix adds a slower mean, SWATS switches to SGD, and a schedule-free method
# takes averages of the parameters instead of the gradients.

ademamix, swats = partial(fastopt.AdEMAMix, beta3=0.99), partial(fastopt.SWATS, eps=0.01)
compare(fastopt.AdaBelief, fastopt.Yogi, fastopt.Adan, fastopt.ScheduleFreeAdamW, AdEMAMix=ademamix, SWATS=swats)

# %%
# **Curvature.** Newton's method measures it, BFGS and L-BFGS learn it from gradients. A ravine is no difficulty for
# them, and they follow Rosenbrock's valley to its end in fewer than forty iterations.

compare(Newton="newton", BFGS="bfgs", LBFGS="lbfgs")

# %%
# One of each kind in motion: step by step at first, then ever faster.

names = ("momentum", "Rprop", "RMSprop", "Adam", "ScheduleFreeAdamW", "LBFGS")
figure, axes = subplots(1, 2, figsize=(7, 3.6))
lines = {}
for ax, surface in zip(axes, ("Beale", "saddle"), strict=True):
    draw(ax, surface)
    for name, colour in zip(names, COLOURS, strict=True):
        (lines[name, surface],) = ax.plot([], [], color=colour, label=name)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def move_to(step):
    for key, line in lines.items():
        line.set_data(*PATHS[key][: step + 1].T)


animation = FuncAnimation(figure, move_to, np.unique(np.geomspace(1, STEPS, FRAMES, dtype=int)), interval=150)
figure.canvas.draw()  # starts it where there is no window, too
show()

# %%
# The pictures' claims in numbers: the loss at the end, and the steps that it takes to get half-way off the ridge.

loss = {(name, surface): SURFACES[surface][0](*path[-1]) for (name, surface), path in PATHS.items()}
steps_on_ridge = {name: (abs(PATHS[name, "saddle"][:, 1]) > 0.5).argmax() for name in names}
for name in names:
    print(f"{name}: {steps_on_ridge[name]} steps on the ridge, loss {loss[name, 'ravine']:.1g} in the ravine")
assert loss["Nesterov", "ravine"] < 0.1 * loss["SGD", "ravine"]
assert max(steps_on_ridge[name] for name in ("Rprop", "RMSprop", "Adam")) < steps_on_ridge["momentum"]
for name in ("Newton", "BFGS", "LBFGS"):
    assert all(loss[name, surface] < 1e-6 and len(PATHS[name, surface]) <= 40 for surface in SURFACES)
