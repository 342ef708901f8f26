r"""
Regularization on few digits
============================

A net with 9,610 parameters learns 100 digits by heart, even those whose labels are wrong; here 20 are. Its training
loss goes to 0, and its validation loss rises again. The remedies:

- **L1** adds :math:`\lambda \operatorname{sign}(w)` to the gradient, **L2** adds :math:`\lambda w`; both pull weights
  to 0, and L1 brings most of them close to it. **Max-norm** limits the length of each unit's incoming weights. All
  three are options of the optimizer, here of the group of weights alone.
- **Dropout** sets each hidden value to 0 with the probability p in training.
- **Early stopping** goes back to the parameters with the least validation loss.
- **Augmentation** shifts, turns and scales the images by a little, differently in each epoch.
"""

import nets
import numpy as np
import pictures
from data import batches, digits
from scipy.ndimage import map_coordinates
from setting import SHORT

import fastopt

images, labels, test_x, test_y = digits()
x, valid_x = images[:100], images[100:500]
y, valid_y = labels[:100].copy(), labels[100:500]
y[:20] = (y[:20] + 1) % 10

# %%
# Augmentation: the image has the same label wherever it is, so the net sees new images in each epoch.


def augmented(rng, images):
    """Return each image turned by up to 11.5 degrees, scaled by up to 10 %, and shifted by up to 0.7 pixels."""
    number, row, column = np.mgrid[: len(images), -3.5:4, -3.5:4]
    angle, scale, down, right = rng.uniform(-1, 1, (4, len(images), 1, 1))
    cosine, sine = np.cos(0.2 * angle) / (1 + 0.1 * scale), np.sin(0.2 * angle) / (1 + 0.1 * scale)
    rows = cosine * row - sine * column + 3.5 - 0.7 * down
    columns = sine * row + cosine * column + 3.5 - 0.7 * right
    return map_coordinates(images.reshape(-1, 8, 8), [number, rows, columns], order=1).reshape(-1, 64)


figure, axes = pictures.subplots(2, 8, figsize=(7, 2))
for ax, image in zip(axes.flat, [x[20], *augmented(np.random.default_rng(0), x[[20] * 15])], strict=True):
    ax.imshow(image.reshape(8, 8), cmap="gray")
    ax.set(xticks=[], yticks=[])
axes[0, 0].set_title("original")

# %%
# Inverted dropout: what is left in training is divided by 1 - p, so that the mean is the same, and in a test nothing
# has to be scaled.

dropout = nets.Dropout(np.random.default_rng(0), 0.5)
ones = np.ones((1000, 64), np.float32)
assert set(np.unique(dropout.forward(ones, train=True))) == {0, 2}
assert abs(dropout.forward(ones).mean() - 1) < 0.05
assert (dropout.forward(ones, train=False) == ones).all()

# %%
# Each remedy alone, with the same start and the same batches. Dotted is the validation loss without any.

epochs, runs = (100, 1) if SHORT else (200, 5)
options = {"L1": {"l1": 0.002}, "L2": {"weight_decay": 0.01}, "max-norm": {"max_weight_norm": 1.4}}
kinds = ["none", *options, "dropout", "augmentation", "early stopping"]


def run(kind, seed):
    """Train, and return the losses of training and validation by epochs, and the numbers of the table."""
    rng, other_rng = np.random.default_rng(seed), np.random.default_rng(seed)
    dropout = nets.Dropout(other_rng, 0.5 if kind == "dropout" else 0.0)
    net = nets.Net([nets.Dense(rng, 64, 128), nets.ReLU(), dropout, nets.Dense(rng, 128, 10)])
    opt = fastopt.Adam(fastopt.group_by(net.params, {"*.W": options.get(kind, {}), "*.b": {}}), lr=0.003)
    stopping = fastopt.EarlyStopping(patience=20 if kind == "early stopping" else epochs)
    curves = []
    while len(curves) < epochs and not stopping.stopped:
        inputs = augmented(other_rng, x) if kind == "augmentation" else x
        loss = nets.train(net, opt, inputs, y, batches(rng, 100, 25)).mean()
        valid_loss, _ = nets.softmax_cross_entropy(net.forward(valid_x, train=False), valid_y)
        stopping.update(valid_loss, net.params)
        curves.append((loss, valid_loss))
    if kind == "early stopping":
        stopping.restore(net.params)
        loss, valid_loss = min(curves, key=lambda losses: losses[1])
    W, accuracy = net.params["0"]["W"], nets.accuracy(net.forward(test_x, train=False), test_y)
    numbers = loss, valid_loss, 100 * accuracy, 100 * (abs(W) < 0.01).mean(), np.linalg.norm(W, axis=0).max()
    return np.array(curves), numbers


print("                training  validation      test     weights  longest weights")
print("                    loss        loss  accuracy  below 0.01        of a unit")
figure, axes = pictures.subplots(2, 4, figsize=(7, 4.6), sharex=True, sharey=True)
results = {kind: [run(kind, seed) for seed in range(runs)] for kind in kinds}
table = {kind: np.mean([numbers for _, numbers in of_kind], axis=0) for kind, of_kind in results.items()}
without = results["none"][0][0][:, 1]
for ax, kind in zip(axes.flat, kinds, strict=False):
    print("{:14}  {:8.3f}  {:10.3f}  {:6.1f} %  {:8.0f} %  {:15.2f}".format(kind, *table[kind]))
    curves = results[kind][0][0]
    ax.plot(range(1, epochs + 1), without, ":", color=pictures.GREY)
    ax.plot(range(1, len(curves) + 1), curves[:, 0], color=pictures.COLOURS[0], label="training")
    ax.plot(range(1, len(curves) + 1), curves[:, 1], color=pictures.COLOURS[3], label="validation")
    ax.set(title=kind, xlabel="epoch", ylim=(0, 1.5))
axes[1, 3].legend(*axes[0, 0].get_legend_handles_labels(), loc="center")
axes[1, 3].axis("off")
axes[0, 3].tick_params(labelbottom=True)
axes[0, 0].set_ylabel("loss")
axes[1, 0].set_ylabel("loss")

# %%
# Every remedy ends at a lower validation loss than none. (The training loss of dropout and augmentation is that of
# thinned nets and changed images.)

training, validation, accuracy, small, longest = np.transpose(list(table.values()))
assert training[0] < 0.05
assert without[-1] > 1.05 * without.min()
assert validation[0] > validation[1:].max()
assert small[1] > 2 * small[0]
assert longest[3] < 1.401 < 1.8 < longest[0]
pictures.show()
