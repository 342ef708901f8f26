r"""
Vanishing and exploding gradients
=================================

Backpropagation multiplies the gradient by one matrix and one derivative for each layer,
:math:`\nabla h_{k-1} = W_k^\top (f'(z_k) \odot \nabla h_k)`. If these factors are smaller than 1, little is left of it
after twenty layers, and the first layers learn nothing; if they are larger, it explodes.

The first remedy is a start at which the factors are about 1. With n inputs and m outputs, Xavier's weights have the
variance 2 / (n + m) (Glorot and Bengio, 2010), He's have 2 / n, as ReLU passes on half of its inputs only (He and
others, 2015), and orthogonal matrices keep lengths (Saxe and others, 2013).
"""

from functools import partial

import nets
import numpy as np
import pictures
from data import batches, digits
from setting import SHORT

import fastopt
from fastopt.init import he_normal, orthogonal, xavier_normal

train_x, train_y, test_x, test_y = digits()


def deep_net(depth, activation, init, normalized=False):
    rng, layers = np.random.default_rng(0), []
    for _ in range(depth):
        layers += [nets.Dense(rng, 64, 64, init), *[nets.BatchNorm(64)] * normalized, activation()]
    return nets.Net([*layers, nets.Dense(rng, 64, 10, xavier_normal)])


# %%
# The norm of the gradient in each of twenty layers, before the first step. The sigmoid's derivative is at most 1/4: its
# gradient vanishes on the way back. With tanh and ReLU, the input of a layer shrinks or grows on the way forward as the
# gradient does on the way back, and a weight's gradient is their product: it is too small or too large everywhere.
# Xavier's start suits tanh, He's suits ReLU, and orthogonal weights (for ReLU times :math:`\sqrt 2`) suit both.

norms = {}
figure, axes = pictures.subplots(1, 3, sharey=True)
for ax, activation, gain in zip(axes, (nets.Sigmoid, nets.Tanh, nets.ReLU), (1, 1, 2**0.5), strict=True):
    inits = {"std 0.05": partial(he_normal, gain=0.4), "std 0.5": partial(he_normal, gain=4.0)}
    inits |= {"Xavier": xavier_normal, "He": he_normal, "orthogonal": partial(orthogonal, gain=gain)}
    for label, init in inits.items():
        net = deep_net(20, activation, init)
        net.backward(nets.softmax_cross_entropy(net.forward(train_x[:256]), train_y[:256])[1])
        norms[activation, label] = [np.linalg.norm(grads["W"]) for grads in net.grads.values()][:-1]
        ax.semilogy(range(1, 21), norms[activation, label], "--" * (label == "orthogonal"), label=label)
    ax.set(title=activation.__name__, xlabel="layer", xticks=[1, 5, 10, 15, 20])
axes[0].set_ylabel("norm of the gradient")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)

# %%
# The second remedy is another activation. Negative inputs get a small slope: a fixed one (leaky ReLU), a random one in
# training and its mean afterwards (randomized ReLU), or one that each layer learns (parametric ReLU, on the right, from
# the dotted line on); or a smooth curve whose mean is nearer to 0 (ELU). The third is batch norm: it rescales the input
# of each activation, so that even the sigmoid learns through many layers.

depth, epochs = (10, 4) if SHORT else (20, 40)
rng = np.random.default_rng(0)
reached = {}
kinds = {
    "sigmoid": (nets.Sigmoid, xavier_normal),
    "sigmoid, batch norm": (nets.Sigmoid, xavier_normal, True),
    "ReLU": (nets.ReLU, he_normal),
    "leaky ReLU": (lambda: nets.LeakyReLU(0.1), he_normal),
    "randomized ReLU": (lambda: nets.RReLU(rng), he_normal),
    "parametric ReLU": (nets.PReLU, he_normal),
    "ELU": (nets.ELU, he_normal),
}
figure, (ax, ax_alpha) = pictures.subplots(1, 2, figsize=(7, 4), width_ratios=[3, 2])
for (kind, arguments), colour in zip(kinds.items(), [pictures.COLOURS[5], *pictures.COLOURS[::-1]], strict=True):
    net = deep_net(depth, *arguments)
    lr = fastopt.schedules.cosine(0.03, total=epochs * 20)
    opt = fastopt.SGD(net.params, lr=lr, momentum=0.9, clip_global_norm=1.0)
    losses = [nets.train(net, opt, train_x, train_y, batches(rng, len(train_x), 64)).mean() for _ in range(epochs)]
    ax.semilogy(range(1, epochs + 1), losses, "--" * (kind == "sigmoid"), color=colour, label=kind)
    reached[kind] = nets.accuracy(net.forward(test_x, train=False), test_y)
    print(f"{kind:20} training loss {losses[-1]:.3f}, test accuracy {reached[kind]:.1%}")
    if kind == "parametric ReLU":
        alphas = np.concatenate([params["alpha"] for params in net.params.values() if "alpha" in params])
        ax_alpha.plot(range(1, depth + 1), alphas, "o", color=colour)
        ax_alpha.axhline(0.25, color=colour, ls=":")
ax.set(xlabel="epoch", ylabel="training loss")
ax.xaxis.get_major_locator().set_params(integer=True)
ax_alpha.set(xlabel="layer", ylabel="learned slope", ylim=(0, None))
figure.legend(loc="outside lower center", ncols=3)

# %%
# A recurrent net multiplies by the same matrix at every time step. This one must remember the sign that it is shown at
# first, through 29 steps of noise. Its gradient explodes, and a single such step throws the weights far away. Clipping
# is the remedy: by value (each element, which turns the gradient) or by norm (which keeps its direction).

figure, ax = pictures.subplots()
clipping = {"no clipping": {}, "by value": {"clip_value": 0.02}, "by norm": {"clip_global_norm": 0.2}}
runs = {}
for label, options in clipping.items():
    rng = np.random.default_rng(0)
    net = nets.Net([nets.Recurrent(rng, 1, 32, partial(orthogonal, gain=1.2)), nets.Dense(rng, 32, 1, xavier_normal)])
    opt = fastopt.SGD(net.params, lr=0.3, **options)
    losses = runs[label] = []
    while len(losses) < (60 if SHORT else 400) and max(losses, default=0) < 1e6:
        x, signs = rng.normal(0, 0.3, (32, 30, 1)).astype(np.float32), rng.choice(np.float32([-1, 1]), (32, 1))
        x[:, 0] = signs
        loss, dy = nets.squared_error(net.forward(x), signs)
        losses.append(loss)
        net.backward(dy)
        opt.step(net.grads)
    ax.loglog(range(1, len(losses) + 1), losses, label=label)
ax.set(xlabel="step", ylabel="loss")
ax.legend()

# %%
# What the pictures show:

assert norms[nets.Sigmoid, "Xavier"][0] < 1e-8 * norms[nets.Sigmoid, "Xavier"][-1]
suited = {nets.Tanh: ("Xavier", "orthogonal"), nets.ReLU: ("He", "orthogonal")}
for activation, labels in suited.items():
    assert all(0.01 < norm < 10 for label in labels for norm in norms[activation, label])
assert max(norms[nets.ReLU, "std 0.05"]) < 1e-6 < 1e4 < min(norms[nets.ReLU, "std 0.5"])
assert reached.pop("sigmoid") < 0.3 < 0.7 < min(reached.values())
assert np.ptp(alphas) > 0.02
assert max(runs["no clipping"]) > 1e3
assert max(np.median(runs[label][-20:]) for label in ("by value", "by norm")) < 0.5
pictures.show()
