r"""
Adaptive learning rates
=======================

One learning rate for all parameters is too large for some and too small for others, as gradients differ in size. Each
method below has a rate for each parameter, from the gradients :math:`g` it has had:

- AdaGrad: :math:`\alpha / \sqrt{\sum g^2}`. It can only fall.
- RMSProp: :math:`\alpha / \sqrt v` with the running mean :math:`v \leftarrow \rho v + (1 - \rho) g^2`, which forgets.
- AdaDelta: :math:`\sqrt u / \sqrt v` with the running mean :math:`u` of the squared steps: without :math:`\alpha`.
- Adam: :math:`\alpha / \sqrt v` for the running mean :math:`m` of the gradients instead of :math:`g`. Both means begin
  at 0 and are too small at first; divided by :math:`1 - \beta_1^t` and :math:`1 - \beta_2^t` they are right.
"""

import nets
import numpy as np
from data import batches, digits
from pictures import COLOURS, show, subplots
from setting import SHORT

import fastopt

STEPS, RUNS = (500, 1) if SHORT else (5000, 8)

# %%
# A linear model of three features, learned from four noisy examples at a time. One feature is large, one is small, and
# one is rare: it is 0 in nineteen of twenty examples. So the first parameter has gradients ten times as large as the
# second, and the third has one now and then.

FEATURES = ("large", "small", "rare")


def gradient(w, rng):
    x = rng.normal(size=(4, 3)) * [3, 0.3, 1]
    x[:, 2] *= rng.random(4) < 0.05
    return x.T @ (x @ (w - 1) + rng.normal(size=4)) / 2


# Each optimizer, and how its rates after step t follow from its state.
METHODS = {
    "AdaGrad": (fastopt.Adagrad, {"lr": 0.1}, lambda state, t: 0.1 / np.sqrt(state["sum"])),
    "RMSProp": (fastopt.RMSprop, {"lr": 0.01}, lambda state, t: 0.01 / np.sqrt(state["v"])),
    "AdaDelta": (fastopt.Adadelta, {}, lambda state, t: np.sqrt((state["u"] + 1e-6) / (state["v"] + 1e-6))),
    "Adam": (fastopt.Adam, {"lr": 0.01}, lambda state, t: 0.01 / np.sqrt(state["v"] / (1 - 0.999**t))),
    "not corrected": (
        fastopt.Adam,
        {"lr": 0.01, "bias_correction": False},
        lambda state, t: 0.01 / np.sqrt(state["v"]),
    ),
}
watched = sorted(set(np.geomspace(1, STEPS, 80, dtype=int)))
figure, axes = subplots(2, 3, sharex=True, figsize=(7, 5))
rates, lengths = {}, {}
for ax, (name, (optimizer, options, rates_of)) in zip(axes.flat, METHODS.items(), strict=False):
    w, rng, path = np.zeros(3), np.random.default_rng(2), [np.zeros(3)]
    opt, rates[name] = optimizer(w, **options), []
    for t in range(1, STEPS + 1):
        opt.step(gradient(w, rng))
        path.append(w.copy())
        if t in watched:
            with np.errstate(divide="ignore"):
                rates[name].append(np.where(w == 0, np.nan, rates_of(opt.state["0"], t)))  # none before a gradient
    lengths[name] = abs(np.diff(path, axis=0)[np.array(watched) - 1, :2]).mean(axis=1) / options.get("lr", 1.0)
    for values, label in zip(np.transpose(rates[name]), FEATURES, strict=True):
        ax.loglog(watched, values, label=label)
    ax.set(title="Adam, not corrected" if name == "not corrected" else name)
for name, colour in zip(("Adam", "not corrected"), COLOURS[3:5], strict=True):
    axes.flat[-1].loglog(watched, lengths[name], color=colour, label=name)
axes.flat[-1].set(title="length of a step / lr", ylim=(1e-3, None))
axes.flat[-1].legend(loc="lower left")
for ax in axes[1]:
    ax.set(xlabel="step")
figure.supylabel("effective learning rate")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)

# %%
# AdaGrad's rates go on falling, with :math:`1 / \sqrt t`: good for convex problems, too fast for networks. The others
# settle. With each, the rates are small for the large feature, whose gradients are large. AdaDelta's :math:`\sqrt u`
# starts at 0.001, the root of its :math:`\epsilon`, and grows with its steps.
#
# After one step, Adam's means are 0.1 and 0.001 of what they should be. Without the correction, the first step is
# :math:`0.1 / \sqrt{0.001} = 3.2` times as long as the learning rate, the next ones are longer still, and the rates are
# too large for a thousand steps. With it, the first step is as long as the learning rate.

# %%
# **Local gains** are older: in delta-bar-delta (Jacobs, 1988; here as Hinton taught it), the gain of a parameter grows
# by 0.05 in each step in which its gradient keeps its sign, and is multiplied by 0.95 where the sign changes. On a
# quadratic with condition 100, the gain of the flat direction grows without end; that of the steep one grows until the
# steps go beyond the minimum, and then stays about there.

curvature = np.array([1.0, 100.0])
figure, (left, right) = subplots(1, 2)
losses = {}
for name, optimizer in {"gradient descent": fastopt.SGD, "delta-bar-delta": fastopt.DeltaBarDelta}.items():
    x = np.ones(2)
    opt, gains, losses[name] = optimizer(x, lr=0.004), [], []
    for _ in range(150):
        losses[name].append((curvature * x**2).sum() / 2)
        opt.step(curvature * x)
        if name == "delta-bar-delta":
            gains.append(opt.state["0"]["gain"].copy())
    right.semilogy(losses[name], label=name)
for values, label, colour in zip(np.transpose(gains), ("flat direction", "steep direction"), COLOURS[2:], strict=False):
    left.plot(values, label=label, color=colour)
left.set(xlabel="step", ylabel="gain")
left.legend()
right.set(xlabel="step", ylabel="loss")
right.legend()

# %%
# **SWATS** (Keskar and Socher, 2017) begins as Adam and goes on as SGD. In each step it computes, for each array, the
# rate with which SGD would have gone as far in this direction. As soon as this rate differs by less than ``eps`` from
# its running mean, the array is switched to SGD with momentum, at this rate. Adam is fast at first, and SGD is said to
# generalize better.
#
# A test of that: 200 digits, of which two fifths have random labels. An optimizer that learns the wrong labels
# generalizes worse. The task was chosen because it shows a difference: with all labels right, the three end within one
# percent of each other.

OPTIMIZERS = {
    "SGD": (fastopt.SGD, {"lr": 0.01, "momentum": 0.9}),
    "Adam": (fastopt.Adam, {"lr": 0.003, "eps": 0.001}),
    "SWATS": (fastopt.SWATS, {"lr": 0.003, "eps": 0.001}),
}


def train(optimizer, options, seed):
    """Return the accuracies (training, test) after each epoch, and SWATS's rate of each array in each step."""
    rng = np.random.default_rng(seed)
    x, labels, test_x, test_labels = digits(200, rng)
    labels = np.where(rng.random(200) < 0.4, rng.integers(10, size=200), labels)
    net = nets.Net({"hidden": nets.Dense(rng, 64, 64), "relu": nets.ReLU(), "out": nets.Dense(rng, 64, 10)})
    opt, accuracies, sgd_rates = optimizer(net.params, **options), [], []
    for _ in range(40):
        for batch in batches(rng, 200, 20):
            nets.train(net, opt, x, labels, [batch])
            if seed == 0 and optimizer is fastopt.SWATS:
                means = {name: state["rate_average"] / (1 - 0.999**opt.step_count) for name, state in opt.state.items()}
                sgd_rates.append({name: opt.state[name]["sgd_lr"] or mean for name, mean in means.items()})
        accuracies.append([nets.accuracy(net.forward(x), labels), nets.accuracy(net.forward(test_x), test_labels)])
    return np.array(accuracies), sgd_rates, opt.state


figure, (left, right) = subplots(1, 2)
test_accuracy = {}
for (name, (optimizer, options)), colour in zip(OPTIMIZERS.items(), COLOURS, strict=False):
    runs = [train(optimizer, options, seed) for seed in range(RUNS)]
    accuracies = np.mean([run[0] for run in runs], axis=0)
    test_accuracy[name] = accuracies[:, 1]
    right.plot(accuracies[:, 0], "--", color=colour)
    right.plot(accuracies[:, 1], color=colour, label=name)
    print(f"{name}: {accuracies[-1, 0]:.1%} of the training labels, {accuracies[-1, 1]:.1%} of the test labels")
_, sgd_rates, state = runs[0]
switch_steps = {array: int(state[array]["switch_step"]) for array in state}
for (array, switch_step), colour in zip(switch_steps.items(), COLOURS, strict=False):
    left.plot(range(1, len(sgd_rates) + 1), [each[array] for each in sgd_rates], color=colour, label=array)
    left.plot(switch_step, sgd_rates[switch_step - 1][array], "o", color=colour)
left.set(xlabel="step", ylabel="rate for SGD", xscale="log", ylim=(0, 0.1), title="SWATS: dots are switches")
left.legend(ncols=2, loc="upper right")
right.set(xlabel="epoch", ylabel="accuracy", title="test (lines), training (dashed)")
right.legend(loc="lower right")
show()

# %%
# Adam is the fastest, and goes on to learn the wrong labels. SWATS has left it early. It multiplies the rates of the
# picture by :math:`1 - \beta_1 = 0.1`, so that they are 0.003 to 0.007, not far from the 0.01 that was chosen for SGD.
# It ends like SGD: better than Adam. Adam was as good in between; to stop early is the other remedy. When the switch
# comes is partly chance, as the rate of a single batch must meet the mean.

assert (np.diff(rates["AdaGrad"], axis=0)[:, :2] <= 0).all()
assert all(3 < values[-1][1] / values[-1][0] < 30 for values in rates.values())
assert np.allclose([lengths["Adam"][0], lengths["not corrected"][0]], [1, 0.1 / 0.001**0.5], rtol=1e-3)
assert losses["delta-bar-delta"][-1] < 0.1 * losses["gradient descent"][-1]
assert abs(gains[-1][1] * 0.004 * 100 - 1) < 0.1  # the gain with which a step meets the minimum
assert all(0 < switch_step < 200 for switch_step in switch_steps.values())
assert test_accuracy["SWATS"][-1] > test_accuracy["Adam"][-1]
