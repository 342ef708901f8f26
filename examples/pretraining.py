r"""
Pretraining
===========

With 100 labelled images and many without labels, a network can learn from the others first. Three ways to begin:

- *Autoencoders layer by layer*: a layer learns to code its input so that a decoder finds the input again,
  :math:`\|\mathrm{decode}(\mathrm{encode}(h)) - h\|^2 \to \min`. Then the next layer learns to code these codes.
- *An auxiliary task* with cheap labels: the same layers first learn to count the holes of each digit.
- *Greedy supervised pretraining*: each layer in turn is trained with a classifier on top, on the 100 labels alone.

Then an output layer is put on top, and all layers are trained on the 100 labels.
"""

import numpy as np
from data import HOLES, digits, draws
from nets import Dense, Net, ReLU, Sigmoid, accuracy, squared_error, train
from pictures import COLOURS, GREY, show, subplots
from setting import SHORT

import fastopt
from fastopt.init import xavier_normal

DEPTH, WIDTH, EVERY = 3, 64, 25
FIRST, STEPS, SEEDS = (250, 250, [2]) if SHORT else (400, 600, range(8))
x, digit, test_x, test_digit = digits()


def new_layers(rng, activation):
    return [Net([Dense(rng, 64, WIDTH, xavier_normal), activation()]) for _ in range(DEPTH)]


def with_head(rng, layers, classes):
    return Net([*layers, Dense(rng, WIDTH, classes, xavier_normal)])


def sgd(net, lr):
    return fastopt.SGD(net.params, lr=lr, momentum=0.9)


# %%
# The beginnings
# --------------
# Each trains new layers in its own way. ``few`` are the images with labels.


def from_scratch(rng, layers, lr, few):
    pass


def autoencoders(rng, layers, lr, few):
    h = x
    for layer in layers:
        autoencoder = Net([layer, Dense(rng, WIDTH, 64, xavier_normal)])
        opt = fastopt.Adam(autoencoder.params, lr=0.005)
        for batch in draws(rng, len(x), FIRST):
            _, dy = squared_error(autoencoder.forward(h[batch]), h[batch])
            autoencoder.backward(dy)
            opt.step(autoencoder.grads)
        h = layer.forward(h)


def auxiliary_task(rng, layers, lr, few):
    net = with_head(rng, layers, 3)
    train(net, sgd(net, lr), x, HOLES[digit], draws(rng, len(x), DEPTH * FIRST))


def greedy(rng, layers, lr, few):
    h = x[few]
    for layer in layers:
        net = with_head(rng, [layer], 10)
        train(net, sgd(net, lr), h, digit[few], draws(rng, len(few), FIRST))
        h = layer.forward(h)


BEGINNINGS = {
    "from scratch": from_scratch,
    "autoencoders": autoencoders,
    "auxiliary task": auxiliary_task,
    "greedy supervised": greedy,
}

# %%
# The same 100 labels for all
# ---------------------------
# The long setting shows the mean of eight runs. They differ by the digits that were drawn: the short setting is one run
# that resembles the mean. In others the autoencoders gain almost nothing, or the greedy way loses with ReLU.
#
# The pictures count all steps: a pretrained network has made its first ones before the curve begins, and the one from
# scratch makes as many with the labels instead.


def errors_of(begin, activation, lr, seed):
    """Return the fraction of wrong test digits every few steps with the 100 labels."""
    rng = np.random.default_rng(seed)
    few, layers = rng.permutation(len(x))[:100], new_layers(rng, activation)
    begin(rng, layers, lr, few)
    net = with_head(rng, layers, 10)
    opt, errors = sgd(net, lr), []
    for _ in range((STEPS if begin is not from_scratch else STEPS + DEPTH * FIRST) // EVERY):
        train(net, opt, x[few], digit[few], draws(rng, 100, EVERY))
        errors.append(1 - accuracy(net.forward(test_x), test_digit))
    return errors


curves = {
    (activation, name): np.mean([errors_of(begin, activation, lr, seed) for seed in SEEDS], axis=0)
    for activation, lr in {Sigmoid: 0.3, ReLU: 0.03}.items()
    for name, begin in BEGINNINGS.items()
}
ends = {key: curve[-3:].mean() for key, curve in curves.items()}

figure, axes = subplots(1, 2, figsize=(7, 3.6))
for ax, activation in zip(axes, (Sigmoid, ReLU), strict=True):
    for name, colour in zip(BEGINNINGS, (GREY, *COLOURS), strict=False):
        curve = 100 * curves[activation, name]
        start = 0 if name == "from scratch" else DEPTH * FIRST
        ax.plot(start + EVERY * np.arange(1, len(curve) + 1), curve, color=colour, label=name)
    ax.set(title=activation.__name__, xlabel="step", ylabel="wrong on test digits (%)")
axes[0].set_ylim(0, 100)
axes[1].set_ylim(0, 30)
figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)

for (activation, name), end in ends.items():
    print(f"{activation.__name__:8} {name:18} {end:.1%} wrong")

# %%
# With sigmoids and plain momentum the deep network hardly learns at first, since the gradient vanishes on its way down.
# A layer with only one more on top has no such trouble, so both ways that go layer by layer lead to a better place, and
# the greedy one does so without one more image (Bengio, Lamblin, Popovici and Larochelle, 2007).
#
# ReLU and the right initial scale solve that problem from scratch. Then another beginning helps only by what it knows.
# The labels of the auxiliary task say much about digits, and save a third of the errors or more. An autoencoder knows
# how to draw the pixels, which hardly helps to name these digits; the greedy way knows nothing new, and gains little.

show()

assert ends[Sigmoid, "autoencoders"] < 0.9 * ends[Sigmoid, "from scratch"]
assert ends[Sigmoid, "greedy supervised"] < 0.8 * ends[Sigmoid, "from scratch"]
assert ends[ReLU, "auxiliary task"] < 0.8 * ends[ReLU, "from scratch"]
assert ends[ReLU, "from scratch"] < ends[Sigmoid, "from scratch"]
