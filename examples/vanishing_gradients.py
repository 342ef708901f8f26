r"""
Vanishing and exploding gradients
=================================

Backpropagation multiplies the gradient by one matrix and one derivative for each layer,
:math:`\nabla h_{k-1} = W_k^\top (f'(z_k) \odot \nabla h_k)`. If these factors are smaller than 1, little is left of it
after twenty layers, and the first layers learn nothing; if they are larger, it explodes.

The first remedy is a start at which the factors are about 1. With n inputs and m outputs, Xavier's weights have the
variance 2 / (n + m), He's have 2 / n, as ReLU passes on half of its inputs only, and orthogonal matrices keep lengths.
"""

import nets
import numpy as np
from data import batches, digits
from pictures import COLOURS, show, subplots
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
# gradient vanishes on the way to the first layer. With tanh and ReLU, the input of a layer shrinks or grows on the way
# forward as the gradient does on the way back, and a weight's gradient is the product of both: it is too small or too
# large everywhere. Xavier's start suits tanh, He's suits ReLU, and orthogonal weights (for ReLU times :math:`\sqrt 2`)
# suit both.

norms = {}
figure, axes = subplots(1, 3, sharey=True)
for ax, activation in zip(axes, (nets.Sigmoid, nets.Tanh, nets.ReLU), strict=True):
    gain = 2**0.5 if activation is nets.ReLU else 1.0
    inits = {
        "std 0.05": lambda rng, shape, dtype: rng.normal(0, 0.05, shape).astype(dtype),
        "std 0.5": lambda rng, shape, dtype: rng.normal(0, 0.5, shape).astype(dtype),
        "Xavier": xavier_normal,
        "He": he_normal,
        "orthogonal": lambda rng, shape, dtype, gain=gain: orthogonal(rng, shape, gain, dtype=dtype),
    }
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
# training and its mean afterwards (randomized ReLU), or one that each layer learns (parametric ReLU); or a smooth curve
# whose mean is nearer to 0 (ELU). The third is batch norm: it rescales the input of each activation, so that even the
# sigmoid learns through many layers. On the right are the slopes that parametric ReLU learned; all began at the dotted
# line.

depth, epochs = (10, 4) if SHORT else (20, 40)
rng = np.random.default_rng(0)
kinds = {
    "sigmoid": (nets.Sigmoid, xavier_normal),
    "sigmoid, batch norm": (nets.Sigmoid, xavier_normal, True),
    "ReLU": (nets.ReLU, he_normal),
    "leaky ReLU": (lambda: nets.LeakyReLU(0.1), he_normal),
    "randomized ReLU": (lambda: nets.RReLU(rng), he_normal),
    "parametric ReLU": (nets.PReLU, he_normal),
    "ELU": (nets.ELU, he_normal),
}
figure, (ax, ax_alpha) = subplots(1, 2, figsize=(7, 4), width_ratios=[3, 2])
reached = {}
for (kind, arguments), colour in zip(kinds.items(), [COLOURS[5], *COLOURS[::-1]], strict=True):
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
ax.set(xlabel="epoch", ylabel="training loss")
ax_alpha.axhline(0.25, color=COLOURS[1], ls=":")
ax_alpha.set(xlabel="layer", ylabel="learned slope", ylim=(0, None))
figure.legend(loc="outside lower center", ncols=3)

# %%
# A recurrent net multiplies by the same matrix at every time step. This one must remember the sign that it is shown at
# first, through 29 steps of noise. Its gradient explodes, and a single such step throws the weights far away. Clipping
# is the remedy: by value (each element, which turns the gradient) or by norm (which keeps its direction).

figure, ax = subplots()
clipping = {"no clipping": {}, "by value": {"clip_value": 0.02}, "by norm": {"clip_global_norm": 0.2}}
runs = {}
for label, options in clipping.items():
    rng = np.random.default_rng(0)
    recurrent = nets.Recurrent(rng, 1, 32, lambda rng, shape, dtype: orthogonal(rng, shape, 1.2, dtype=dtype))
    net = nets.Net([recurrent, nets.Dense(rng, 32, 1, xavier_normal)])
    opt = fastopt.SGD(net.params, lr=0.3, **options)
    losses = runs[label] = []
    while len(losses) < (60 if SHORT else 400) and max(losses, default=0) < 1e6:
        x, signs = rng.normal(0, 0.3, (32, 30, 1)).astype(np.float32), rng.choice(np.float32([-1, 1]), (32, 1))
        x[:, 0] = signs
        loss, dy = nets.squared_error(net.forward(x), signs)
        net.backward(dy)
        opt.step(net.grads)
        losses.append(loss)
    ax.loglog(range(1, len(losses) + 1), losses, label=label)
ax.set(xlabel="step", ylabel="loss")
ax.legend()

# %%
# What the pictures show:

first_by_last = {key: of_layers[0] / of_layers[-1] for key, of_layers in norms.items()}
assert first_by_last[nets.Sigmoid, "Xavier"] < 1e-8
assert 0.1 < first_by_last[nets.Tanh, "Xavier"] < 10
assert 0.1 < first_by_last[nets.ReLU, "He"] < 10
assert max(norms[nets.ReLU, "std 0.05"]) < 1e-6 < 1e4 < min(norms[nets.ReLU, "std 0.5"])
assert reached.pop("sigmoid") < 0.3 < 0.7 < min(reached.values())
assert np.ptp(alphas) > 0.02
assert max(runs["no clipping"]) > 1e3
assert max(np.median(runs[label][-20:]) for label in ("by value", "by norm")) < 0.5

gradient = np.array([3.0, 0.5])
by_value, by_norm = gradient.copy(), gradient.copy()
fastopt.clip_grad_value_(by_value, 1.0)
fastopt.clip_grad_norm_(by_norm, 1.0)
assert by_value[1] / by_value[0] == 0.5
assert np.isclose(by_norm[1] / by_norm[0], gradient[1] / gradient[0])
show()
