r"""
Reuse of layers
===============

The lower layers of a network learn features of its inputs, and only the upper ones are about its task. So a new task
need not begin from nothing: restore the lower layers of an old network, put a new output layer (head) on top, and train
it. How much of the old network should change depends on how much data there is, and how similar it is:

============  ======================================  =======================================
data          similar                                 different
============  ======================================  =======================================
little        freeze the features, train the head     little helps; at most the lowest layers
much          train all layers, the lower ones less   from scratch, or all layers from there
============  ======================================  =======================================

The old task here is to name a digit, the new one to count its holes: 0, 1 or 2. The data is different if the pixels of
all images are put into another order, always the same one: it is as hard to learn, but old features are useless.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from data import HOLES, batches, digits, draws
from nets import Dense, Net, ReLU, accuracy, softmax_cross_entropy, train
from pictures import COLOURS, GREY, show, subplots
from setting import SHORT

import fastopt

WIDTH, STEPS, RUNS = (48, 80, 2) if SHORT else (128, 300, 10)
x, digit, test_x, test_digit = digits()
old, new = slice(0, 640), slice(640, None)  # the tasks share no images
order = np.random.default_rng(3).permutation(64)


def new_net(rng, outputs):
    features = {"low": Dense(rng, 64, WIDTH), "middle": Dense(rng, WIDTH, WIDTH), "top": Dense(rng, WIDTH, WIDTH)}
    layers = {name: Net({"dense": dense, "relu": ReLU()}) for name, dense in features.items()}
    return Net({"features": Net(layers), "head": Dense(rng, WIDTH, outputs, fastopt.init.xavier_normal)})


# %%
# Partial restore
# ---------------
# The old network is trained and saved. ``strict=False`` restores the arrays that fit, which are all but the head;
# ``state=False`` takes the parameters alone, since moments and step counts belong to the old task.

rng = np.random.default_rng(0)
net = new_net(rng, 10)
opt = fastopt.Adam(net.params, lr=1e-3)
train(net, opt, x[old], digit[old], draws(rng, 640, 5 * STEPS))
print(f"old task: {1 - accuracy(net.forward(test_x), test_digit):.1%} wrong")
folder = tempfile.TemporaryDirectory()
fastopt.save(Path(folder.name, "old.npz"), opt)
checkpoint = fastopt.load(Path(folder.name, "old.npz"))
folder.cleanup()

net = new_net(rng, 3)
result = checkpoint.restore(fastopt.Adam(net.params), strict=False, state=False)
print(f"not restored: {result.missing}")

# %%
# Frozen features, computed once
# ------------------------------
# A frozen layer returns the same for the same images, so its output can be kept. It is kept batch by batch: for another
# number of rows, a matrix product may add in another order. Then training the head has the same bits as without the
# cache, and is faster by the whole forward pass of the features.

labels = HOLES[digit[new]]
fixed_batches = list(batches(rng, len(labels), 32))
visits = rng.integers(len(fixed_batches), size=4 * STEPS)
features = net.layers["features"]


def train_head(features_of):
    """Train a new head, and return its arrays and the seconds."""
    head = Dense(np.random.default_rng(1), WIDTH, 3)
    opt = fastopt.Adam({"features": features.params, "head": head.params}, lr=0.01)
    opt.freeze("features.*")
    start = time.perf_counter()
    cache = {}
    for number in visits:
        h = features_of(number, cache)
        _, dlogits = softmax_cross_entropy(head.forward(h), labels[fixed_batches[number]])
        head.backward(dlogits)
        opt.step({"head": head.grads})  # arrays without a gradient are passed over
    return head.params, time.perf_counter() - start


def computed(number, cache):
    return features.forward(x[new][fixed_batches[number]])


def cached(number, cache):
    if number not in cache:
        cache[number] = computed(number, cache)
    return cache[number]


seconds = {computed: [], cached: []}
for _ in range(3):
    heads = {}
    for function, of_function in seconds.items():
        heads[function], duration = train_head(function)
        of_function.append(duration)
same_bits = all(np.array_equal(heads[computed][name], heads[cached][name]) for name in ("W", "b"))
ratio = np.median(seconds[computed]) / np.median(seconds[cached])
print(f"with the cache {ratio:.1f} times as fast; the same bits: {same_bits}")

# %%
# Five ways
# ---------
# - From scratch.
# - The head alone, with frozen features.
# - The head first, and then the top layer too, with a rate of its own.
# - All layers with one rate.
# - All layers with discriminative rates: each layer learns more slowly than the one above.


def fit(way, x, labels, seed):
    """Return a net that was trained on these examples."""
    rng = np.random.default_rng(seed)
    net, steps = new_net(rng, 3), draws(rng, len(x), STEPS)
    opt = fastopt.Adam(net.params, lr=0.01 if way in ("head", "head, then top") else 0.001)
    if way != "from scratch":
        checkpoint.restore(opt, strict=False, state=False)
    if way == "head":
        opt.freeze("features.*")
    if way == "head, then top":
        opt.freeze("features.*")
        train(net, opt, x, labels, steps[: STEPS // 2])
        opt.unfreeze("features.top.*", lr=0.001)
        steps = steps[STEPS // 2 :]
    if way == "discriminative":
        for name, lr in {"low": 0.0002, "middle": 0.0005, "top": 0.001}.items():
            opt.set(f"features.{name}.*", lr=lr)
        opt.set("head.*", lr=0.003)
    train(net, opt, x, labels, steps)
    return net


WAYS = ["from scratch", "head", "head, then top", "discriminative", "all layers"]
images = {"similar": (x[new], test_x), "different": (x[new][:, order], test_x[:, order])}
counts = {"little data (30 images)": 30, "much data (640 images)": 640}
errors = {}
for kind, (train_images, test_images) in images.items():
    for amount, count in counts.items():
        for way in WAYS:
            wrong = []
            for seed in range(RUNS):
                chosen = np.random.default_rng(seed).permutation(640)[:count]
                net = fit(way, train_images[chosen], labels[chosen], seed)
                wrong.append(1 - accuracy(net.forward(test_images), HOLES[test_digit]))
            errors[amount, kind, way] = np.mean(wrong)

figure, axes = subplots(2, 2, figsize=(7, 4.6), sharex=True, sharey=True)
for row, amount in zip(axes, counts, strict=True):
    for ax, kind in zip(row, images, strict=True):
        values = [100 * errors[amount, kind, way] for way in WAYS]
        bars = ax.barh(WAYS, values, color=[GREY, *COLOURS[:4]])
        ax.bar_label(bars, fmt="%.1f", padding=3)
        ax.set(title=f"{amount}, {kind}", xlim=(0, 115 * max(errors.values())))
axes[0, 0].invert_yaxis()
for ax in axes[1]:
    ax.set_xlabel("wrong on test images (%)")

# %%
# With little data and a similar task it is best to freeze the lower layers: training all of them loses a part of the
# gain, since 30 images are few for so many weights. With much data all layers can learn, and their old values are a
# better beginning than random ones. Where the data is different, frozen features stand in the way, and the old values
# are no better a beginning than random ones.

show()

assert result.missing == ["params.head.W", "params.head.b"]
assert same_bits
little, much = counts
assert errors[little, "similar", "head"] < 0.9 * errors[little, "similar", "from scratch"]
assert errors[little, "similar", "head, then top"] < errors[little, "similar", "all layers"]
assert errors[much, "similar", "all layers"] < errors[much, "similar", "from scratch"]
assert errors[much, "different", "head"] > 1.2 * errors[much, "different", "from scratch"]
