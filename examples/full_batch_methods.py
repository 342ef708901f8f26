r"""
Full-batch methods
==================

Where the loss comes from all data at once, its curvature can be used. **Newton's** method goes to the minimum of the
quadratic model, :math:`w - H^{-1} g`; here conjugate gradients find it from products of the Hessian with vectors.
**BFGS** learns the inverse Hessian from the changes of the gradient, as a matrix; **L-BFGS** keeps the last ten changes
alone. The problem is a softmax regression of 1280 images of digits, with 650 parameters and a penalty on the weights.
"""

import time

import numpy as np
import pictures
from data import digits
from dictionary_learning import learn
from nets import softmax_cross_entropy
from scipy.special import softmax
from setting import SHORT

import fastopt

images, labels, *_ = digits()
x = images.astype(float)


def fun(params):
    calls.append("gradient")
    loss, dlogits = softmax_cross_entropy(x @ params["W"] + params["b"], labels)
    loss += 0.0005 * (params["W"] ** 2).sum()
    return loss, {"W": x.T @ dlogits + 0.001 * params["W"], "b": dlogits.sum(axis=0)}


def hvp(params, v):
    """Return the Hessian times v."""
    calls.append("product")
    probabilities, change = softmax(x @ params["W"] + params["b"], axis=1), x @ v["W"] + v["b"]
    dlogits = probabilities * (change - (probabilities * change).sum(axis=1, keepdims=True)) / len(x)
    return {"W": x.T @ dlogits + 0.001 * v["W"], "b": dlogits.sum(axis=0)}


def run(options):
    """Minimize, and return the evaluations, seconds and losses after each iteration."""
    calls.clear()
    points, start, params = [], time.perf_counter(), {"W": np.zeros((64, 10)), "b": np.zeros(10)}

    def callback(state):
        points.append((len(calls), time.perf_counter() - start, state.loss))

    fastopt.minimize(fun, params, **options, gtol=1e-7, ftol=0, callback=callback)
    return np.transpose(points)


# %%
# A product with the Hessian costs about as much as a gradient, so both count as evaluations. Adam makes one in each
# step. With the better one of two rates it keeps up at first, but near the minimum it needs several times as many.

adam = {"method": "adam", "max_iterations": 250 if SHORT else 3000}
methods = {"Newton": {"method": "newton", "hvp": hvp}, "BFGS": {"method": "bfgs"}, "L-BFGS": {"method": "lbfgs"}}
methods |= {"Adam, lr 0.1": {**adam, "lr": 0.1}, "Adam, lr 0.01": {**adam, "lr": 0.01}}
calls, curves, needed = [], {}, {}
for label, options in methods.items():
    run({**options, "max_iterations": 1})  # imports what the method needs
    curves[label] = run(options)
best = min(losses[-1] for _, _, losses in curves.values())
figure, axes = pictures.subplots(1, 2, sharey=True, figsize=(7, 4))
for label, (evaluations, seconds, losses) in curves.items():
    axes[0].loglog(evaluations, losses - best + 1e-12, label=label)
    axes[1].loglog(seconds, losses - best + 1e-12)
    near = losses - best < 1e-6
    needed[label] = evaluations[near.argmax()] if near.any() else np.inf
    if near.any():
        print(f"{label:13} {needed[label]:4.0f} evaluations, {seconds[near.argmax()]:.2f} s to 1e-6 above the minimum")
    else:
        print(f"{label:13} did not get there in {evaluations[-1]:.0f} evaluations, {seconds[-1]:.2f} s")
axes[0].set(xlabel="evaluations", ylabel="loss above the minimum")
axes[1].set_xlabel("seconds")
figure.legend(loc="outside lower center", ncols=3)

# %%
# Coordinate descent minimizes over one element after the other, exactly. It walks along the axes: quickly where the
# elements hardly depend on each other, and in ever smaller steps where they do.

figure, axes = pictures.subplots(1, 2, sharey=True)
grid = np.mgrid[-2.2:2.2:99j, -2.2:2.2:99j]
cycles = {}
for ax, dependence in zip(axes, (0.4, 0.95), strict=True):
    A = np.array([[1.0, dependence], [dependence, 1.0]])
    w = np.array([-1.0, 2.0])
    path = [w.copy()]

    def best_element(w, name, index, A=A, path=path):
        w[index] -= A[index] @ w / A[index][index]
        path.append(w.copy())

    result = fastopt.block_coordinate_descent(lambda w, A=A: w @ A @ w, w, "coordinates", best_element, ftol=1e-9)
    cycles[dependence] = result.iterations
    losses = (grid * np.tensordot(A, grid, 1)).sum(axis=0)
    ax.contour(*grid, losses, np.geomspace(0.02, 10, 8), colors=pictures.GREY, linewidths=0.6)
    ax.plot(*np.transpose(path), "o-", color=pictures.COLOURS[3], markersize=3)
    ax.set(title=f"dependence {dependence}: {result.iterations} cycles", xlabel="first element", aspect="equal")
axes[0].set_ylabel("second element")

# %%
# Sparse coding explains each image by few atoms of a dictionary: a lasso for each, by coordinate descent over its code.
# The dictionary is the other block, and block coordinate descent takes turns. Some atoms look like digits, others like
# strokes. Below are an image, the sum that explains it, and its six largest terms: atoms times their codes.

X = (x - x.mean(axis=0))[: 400 if SHORT else None]
params, _ = learn(X, cycles=2 if SHORT else 12)
codes, atoms = params["codes"], params["dictionary"]
explained = 1 - ((X - codes @ atoms) ** 2).sum() / (X**2).sum()
used = np.count_nonzero(codes) / len(X)
print(f"{used:.1f} of {len(atoms)} atoms in an image; {100 * explained:.1f} % of the variance")
number = abs(np.count_nonzero(codes, axis=1) - 6).argmin()
largest = np.argsort(-abs(codes[number]))[:6]
example = np.reshape([X[number], codes[number] @ atoms, *codes[number, largest, None] * atoms[largest]], (1, -1, 8, 8))
figure, axes = pictures.subplots(2, 1, figsize=(7, 3), height_ratios=[4, 2])
for ax, rows in zip(axes, (atoms.reshape(4, 16, 8, 8), example), strict=True):
    tiles = [[np.pad(image, 1, constant_values=np.nan) for image in row] for row in rows]
    ax.imshow(np.block(tiles), cmap="gray", vmin=-0.5, vmax=0.5)
    ax.axis("off")
axes[0].set_title(f"the dictionary: {len(atoms)} atoms")
axes[1].set_title("an image, the sum that explains it, and its six largest terms")

# %%
# What the pictures show:

assert max(needed[label] for label in ("Newton", "BFGS", "L-BFGS")) < 0.7 * needed["Adam, lr 0.1"]
assert cycles[0.4] < 10 < 30 < cycles[0.95]
assert used < 16
assert explained > 0.75
pictures.show()
