r"""
Batch norm as a reparametrization
=================================

A product of many scalars, :math:`\hat y = x w_1 w_2 \cdots w_l`, is the smallest deep net. The gradient :math:`g_i`
says how the output changes with one weight while the others stay as they are; but a step changes them all. With the
rate :math:`\varepsilon` the output becomes :math:`x (w_1 - \varepsilon g_1) \cdots (w_l - \varepsilon g_l)`. Beside the
change that the gradient predicts, this has terms in :math:`\varepsilon^2, \dots, \varepsilon^l`. They grow with the
depth, and the step does what it was not made for. (Goodfellow, Bengio and Courville, Deep Learning, section 8.7.1.)
"""

from math import comb

import nets
import numpy as np
import pictures

import fastopt

# %%
# All weights are 1.1, and the step shall lower the output. These are the terms of its change, by their order in the
# rate, here 0.01. In a shallow net the first is nearly all; in a deep one the next ones are larger.

figure, ax = pictures.subplots()
terms = {}
for depth in (3, 10, 30):
    orders = np.arange(1, min(depth, 12) + 1)
    rate_times_gradient = 0.01 * 1.1 ** (depth - 1)
    terms[depth] = [comb(depth, order) * rate_times_gradient**order * 1.1 ** (depth - order) for order in orders]
    ax.semilogy(orders, terms[depth], "o-", label=f"depth {depth}")
ax.set(xlabel="order of the term", ylabel="size of the term", xticks=range(1, 13), ylim=(1e-6, None))
ax.legend()

# %%
# The surprise of a step is the difference between the true change of the output and the predicted one, relative to the
# predicted one. It grows with the depth. Where it is about 1, the output has fallen to nearly nothing instead of as far
# as predicted; beyond, the weights change their sign, and the output explodes.
#
# With batch norm after each factor but the last, what comes into the last one has mean 0 and variance 1, whatever the
# other weights are. Their gradient is 0, the last weight alone sets the scale of the output, and the output is linear
# in it: no surprise is left, except the little that rounding and the eps of batch norm make.


def product(depth, normalized):
    layers = []
    for _ in range(depth):
        layers.append(nets.Dense(None, 1, 1, lambda rng, shape, dtype: np.full(shape, 1.1, dtype), dtype=float))
        layers += [nets.BatchNorm(1, dtype=float)] * normalized
    return nets.Net(layers[:-1] if normalized else layers)


def optimizer(net, rate):
    """Return one that changes the factors alone."""
    return fastopt.SGD(fastopt.group_by(net.params, {"*.W": {}, "*": {"lr": 0.0}}), lr=rate)


def surprise(depth, rate, normalized):
    net = product(depth, normalized)
    opt = optimizer(net, rate)
    before = (x * net.forward(x)).mean()
    net.backward(x / len(x))
    predicted = -rate * sum((grads["W"] ** 2).item() for grads in net.grads.values() if "W" in grads)
    opt.step(net.grads)
    change = (x * net.forward(x)).mean() - before
    return abs(change - predicted) / abs(predicted)


x = np.random.default_rng(0).normal(size=(64, 1))
x = (x - x.mean()) / x.std()
depths = range(2, 41, 2)
figure, ax = pictures.subplots()
surprises = {}
for rate, normalized in ((0.1, False), (0.01, False), (0.001, False), (0.1, True)):
    surprises[rate, normalized] = [surprise(depth, rate, normalized) for depth in depths]
    ax.plot(depths, surprises[rate, normalized], label=f"rate {rate}{', batch norm' * normalized}")
ax.set_yscale("symlog", linthresh=1e-4)
ax.set(xlabel="depth", ylabel="surprise, relative to the prediction", ylim=(-2e-5, 1e4))
figure.legend(loc="outside lower center", ncols=4)

# %%
# Factors learn to multiply by 3. For twenty of them the rate 0.1 is far too large: the first step explodes. With 0.01
# the product jumps to nearly 0, where all gradients are tiny: the loss stays 9. With 0.001 they learn, but the first
# step of forty explodes. With batch norm the rate 0.1 is right for any depth: the scale alone is left to learn.

figure, ax = pictures.subplots(figsize=(7, 4))
runs = {}
for depth, rate, normalized in (
    (20, 0.1, False),
    (20, 0.01, False),
    (20, 0.001, False),
    (40, 0.001, False),
    (20, 0.1, True),
    (40, 0.1, True),
):
    net = product(depth, normalized)
    opt = optimizer(net, rate)
    losses = runs[depth, rate, normalized] = []
    while len(losses) < 40 and max(losses, default=0) < 1e6:
        loss, dy = nets.squared_error(net.forward(x), 3 * x)
        net.backward(dy)
        opt.step(net.grads)
        losses.append(loss)
    label = f"depth {depth}, rate {rate}{', batch norm' * normalized}"
    ax.semilogy(losses, "--" * (normalized and depth == 40), label=label)
ax.set(xlabel="step", ylabel="loss", ylim=(1e-10, 1e8))
figure.legend(loc="outside lower center", ncols=2)

# %%
# What the pictures show:

assert terms[3][1] < 0.1 * terms[3][0]
assert terms[30][1] > terms[30][0]
assert surprises[0.01, False][0] < 0.01 < 0.5 < surprises[0.01, False][-1]
assert surprises[0.1, False][-1] > 1e6
assert max(surprises[0.1, True]) < 1e-6
assert max(runs[20, 0.1, False]) > 1e6
assert 8.9 < runs[20, 0.01, False][-1] < 9.1
assert runs[20, 0.001, False][-1] < 1e-3 < 8.9 < runs[40, 0.001, False][-1]
assert np.allclose(runs[20, 0.1, True], runs[40, 0.1, True], rtol=1e-3)
assert runs[20, 0.1, True][-1] < 1e-6
pictures.show()
