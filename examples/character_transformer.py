r"""
A character-level transformer
=============================

A language model gives each character :math:`c_t` of a text a probability that depends on the characters before it. It
is trained to make the text likely: its loss is the mean surprise of a character, in nats,

.. math:: L(\theta) = -\frac{1}{n} \sum_t \log p_\theta(c_t \mid c_{t-1}, c_{t-2}, \dots)

This is a small transformer in NumPy, with a backward pass written by hand and everything that a long run has: a
warm-up, clipping, groups, accumulated gradients, averaged parameters, and checkpoints. A process in the middle of the
run is killed, and another one goes on from its file with the same bits.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from pictures import COLOURS, show, subplots
from scipy.special import softmax
from setting import SHORT

import fastopt

CONTEXT, WIDTH, HEADS, BLOCKS, BATCH = (16, 16, 2, 1, 8) if SHORT else (64, 64, 4, 2, 16)
UPDATES, WARMUP, STOP, SAVE_EVERY, LOOK_EVERY = (80, 10, 25, 15, 5) if SHORT else (600, 50, 100, 75, 20)
CLIP = 0.7

# %%
# The text is Python's own reference, which ``help("if")`` reads too. Every tenth topic is for validation.
names = sorted(topics)
valid_text = "".join(topics[name] for name in names[9::10])
train_text = "".join(topics[name] for name in names if name not in names[9::10])
alphabet = sorted({*train_text, *valid_text})
code_of = {character: code for code, character in enumerate(alphabet)}
train_codes, valid_codes = (np.array([code_of[c] for c in text]) for text in (train_text, valid_text))


def batch(codes, rng, size=BATCH):
    """Return pieces of a text from random places, and the character that follows each of theirs."""
    places = rng.integers(len(codes) - CONTEXT, size=(size, 1)) + np.arange(CONTEXT)
    return codes[places], codes[places + 1]


# %%
# Layers
# ------
# A forward pass returns what its backward pass needs too. The backward pass gets the derivative ``dy`` of the loss with
# respect to the output, and returns those with respect to the input and the parameters. For :math:`y = xW + b` they are
# :math:`dy\,W^T` for :math:`x`, :math:`x^T dy` for :math:`W`, and the sum of the rows of :math:`dy` for :math:`b`.
def dense(x, p):
    return x @ p["W"] + p["b"]


def dense_backward(dy, x, p):
    rows = dy.reshape(-1, dy.shape[-1])
    return dy @ p["W"].T, {"W": x.reshape(-1, x.shape[-1]).T @ rows, "b": rows.sum(axis=0)}


def norm(x, p):
    """Return each row with mean 0 and variance 1, times the gain, plus the bias."""
    unit = x - x.mean(axis=-1, keepdims=True)
    scale = ((unit**2).mean(axis=-1, keepdims=True) + 1e-5) ** -0.5
    unit *= scale
    return unit * p["gain"] + p["bias"], (unit, scale)


def norm_backward(dy, p, cache):
    unit, scale = cache
    dunit = dy * p["gain"]
    dx = dunit - dunit.mean(axis=-1, keepdims=True) - unit * (dunit * unit).mean(axis=-1, keepdims=True)
    return dx * scale, {"gain": (dy * unit).sum(axis=(0, 1)), "bias": dy.sum(axis=(0, 1))}


# %%
# In attention each character asks the earlier ones a question :math:`q`, and compares it with their keys :math:`k`. It
# receives the mean of their values :math:`v` with the weights :math:`\mathrm{softmax}(q k^T / \sqrt d)`. A mask hides
# the later characters. The axes of ``q``, ``k`` and ``v`` are (piece of text, head, place, feature).
def attention(x, p):
    q, k, v = dense(x, p["qkv"]).reshape(*x.shape[:2], 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
    mask = np.triu(np.full((x.shape[1], x.shape[1]), -np.inf, np.float32), 1)
    weights = softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5 + mask, axis=-1)
    mixture = (weights @ v).swapaxes(1, 2).reshape(x.shape)
    return dense(mixture, p["out"]), (x, q, k, v, weights, mixture)


def attention_backward(dy, p, cache):
    x, q, k, v, weights, mixture = cache
    dmixture, out_grads = dense_backward(dy, mixture, p["out"])
    dmixture = dmixture.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)
    dweights = dmixture @ v.swapaxes(-1, -2)
    dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True)) * q.shape[-1] ** -0.5
    dqkv = np.stack([dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dmixture])
    dx, qkv_grads = dense_backward(dqkv.transpose(1, 3, 0, 2, 4).reshape(*x.shape[:2], -1), x, p["qkv"])
    return dx, {"qkv": qkv_grads, "out": out_grads}


def feed_forward(x, p):
    hidden = np.maximum(dense(x, p["hidden"]), 0)
    return dense(hidden, p["out"]), (x, hidden)


def feed_forward_backward(dy, p, cache):
    x, hidden = cache
    dhidden, out_grads = dense_backward(dy, hidden, p["out"])
    dx, hidden_grads = dense_backward(dhidden * (hidden > 0), x, p["hidden"])
    return dx, {"hidden": hidden_grads, "out": out_grads}


# %%
# The model
# ---------
# A vector for each character passes through the branches, and each branch adds to it:
# :math:`s \leftarrow s + \mathrm{branch}(\mathrm{norm}(s))`. So the derivative with respect to :math:`s` goes back past
# a branch unchanged, and the branch adds its own part.
BRANCHES = {"attention": (attention, attention_backward), "feed_forward": (feed_forward, feed_forward_backward)}


def new_params(rng, dtype=np.float32):
    def weights(inputs, outputs):
        return {"W": fastopt.init.xavier_normal(rng, (inputs, outputs), dtype=dtype), "b": np.zeros(outputs, dtype)}

    def norm_params():
        return {"gain": np.ones(WIDTH, dtype), "bias": np.zeros(WIDTH, dtype)}

    def block():
        branches = {
            "attention": {"qkv": weights(WIDTH, 3 * WIDTH), "out": weights(WIDTH, WIDTH)},
            "feed_forward": {"hidden": weights(WIDTH, 4 * WIDTH), "out": weights(4 * WIDTH, WIDTH)},
        }
        return {name: {"norm": norm_params(), **layers} for name, layers in branches.items()}

    return {
        "embedding": rng.normal(scale=0.3, size=(len(alphabet), WIDTH)).astype(dtype),
        "place": rng.normal(scale=0.3, size=(CONTEXT, WIDTH)).astype(dtype),
        "blocks": [block() for _ in range(BLOCKS)],
        "norm": norm_params(),
        "head": weights(WIDTH, len(alphabet)),
    }


def forward(params, x):
    """Return the probabilities of the next character at each place, and what the backward pass needs."""
    s, caches = params["embedding"][x] + params["place"][: x.shape[1]], []
    for block in params["blocks"]:
        for branch, (function, _) in BRANCHES.items():
            unit, norm_cache = norm(s, block[branch]["norm"])
            change, cache = function(unit, block[branch])
            s = s + change
            caches.append((norm_cache, cache))
    last, norm_cache = norm(s, params["norm"])
    return softmax(dense(last, params["head"]), axis=-1), (caches, last, norm_cache)


def surprise(probabilities, y):
    return -np.log(np.take_along_axis(probabilities, y[..., None], axis=-1)).mean()


def loss_and_gradients(params, x, y):
    probabilities, (caches, last, norm_cache) = forward(params, x)
    one_hot = np.eye(len(alphabet), dtype=last.dtype)
    dlast, head = dense_backward((probabilities - one_hot[y]) / y.size, last, params["head"])
    ds, last_norm = norm_backward(dlast, params["norm"], norm_cache)
    blocks = []
    for block in reversed(params["blocks"]):
        grads = {}
        for branch, (_, backward) in reversed(BRANCHES.items()):
            norm_cache, cache = caches.pop()
            dunit, grads[branch] = backward(ds, block[branch], cache)
            dbefore, grads[branch]["norm"] = norm_backward(dunit, block[branch]["norm"], norm_cache)
            ds = ds + dbefore
        blocks.insert(0, grads)
    embedding = one_hot[x.ravel()].T @ ds.reshape(-1, WIDTH)
    grads = {"embedding": embedding, "place": ds.sum(axis=0), "blocks": blocks, "norm": last_norm, "head": head}
    return surprise(probabilities, y), grads


# %%
# The run
# -------
# - The rate rises at first, while Adam's estimates are poor, and then falls along a cosine.
# - Matrices decay; biases and the gains of the norms do not.
# - Two calls of ``step`` make one update, with the mean of their gradients.
# - The averaged parameters are those that one would publish; validation shows both.
# - The file has the optimizer with all its arrays, the random generator that draws the pieces, and the history of the
#   run. An odd number of calls lies between two saves, so that some are in the middle of an update.
#
# A run goes on from its file if there is one, so starting it and resuming it are the same command.
def train(path, updates):
    rng, history = np.random.default_rng(0), {"loss": [], "rate": [], "norm": [], "valid": []}
    params = new_params(rng)
    opt = fastopt.AdamW(
        fastopt.group_by(params, {lambda name, p: p.ndim >= 2: {"weight_decay": 0.1}, "*": {"weight_decay": 0.0}}),
        lr=fastopt.schedules.warmup_cosine(5e-3, warmup=WARMUP, total=UPDATES),
        betas=(0.9, 0.99),
        clip_global_norm=CLIP,
        accumulate_steps=2,
        ema_decay=0.97,
    )
    if path.exists():
        checkpoint = fastopt.load(path)
        checkpoint.restore(opt)
        rng, history = checkpoint.extra["rng"], checkpoint.extra["history"]
        print(f"resumed after {len(history['loss'])} calls")
    x, y = batch(valid_codes, np.random.default_rng(1), 4 * BATCH)
    while opt.step_count < updates:
        loss, grads = loss_and_gradients(params, *batch(train_codes, rng))
        info = opt.step(grads)
        history["loss"].append(float(loss))
        if info.applied:
            history["rate"].append(info.lr)
            history["norm"].append(info.grad_norm)
        if info.applied and info.step % LOOK_EVERY == 0:
            own = surprise(forward(params, x)[0], y)
            with opt.averaged():
                average = surprise(forward(params, x)[0], y)
            history["valid"].append([info.step, float(own), float(average)])
        if len(history["loss"]) % SAVE_EVERY == 0 or opt.step_count == updates:
            fastopt.save(path, opt, extra={"rng": rng, "history": history})
            print(f"saved after {len(history['loss'])} calls", flush=True)
    return opt, history


if len(sys.argv) > 1:  # python character_transformer.py FILE
    train(Path(sys.argv[1]), UPDATES)
    sys.exit()

# %%
# Is the backward pass right? In double precision a short step along the gradient, of length :math:`h \|g\|`, must lower
# the loss by :math:`h \|g\|^2`.
params = new_params(np.random.default_rng(0), np.float64)
x, y = batch(train_codes, np.random.default_rng(1))
loss, grads = loss_and_gradients(params, x, y)
info = fastopt.SGD(params, lr=1e-6, clip_global_norm=np.inf).step(grads)  # measures the norm, and clips nothing
fall = (loss - surprise(forward(params, x)[0], y)) / (1e-6 * info.grad_norm**2)
print(f"the loss falls by {fall:.5f} of this")

# %%
# Killed in the middle
# --------------------
# One run goes to an early update without interruption. Another one is a process of its own, which gets ``SIGKILL`` when
# it has saved once, in the middle of an update; no process can catch that. Then this process goes on from its file to
# the same update. The last files of both runs have the same bits: parameters, moments, averages, the random generator,
# the history.
folder = tempfile.TemporaryDirectory()
unbroken, killed = Path(folder.name, "unbroken.safetensors"), Path(folder.name, "killed.safetensors")
train(unbroken, STOP)

print("a process of its own:")
paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
command = [sys.executable, sys.argv[0], str(killed)]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=paths) as child:
    print(child.stdout.readline(), end="")
    child.send_signal(signal.SIGKILL)
print(f"killed by signal {-child.returncode}")
train(killed, STOP)
same_bits = killed.read_bytes() == unbroken.read_bytes()
print(f"the same bits: {same_bits}")

# %%
# From there the run goes on to its end.
opt, history = train(killed, UPDATES)
folder.cleanup()
steps, own, average = np.array(history["valid"]).T

figure, (left, middle, right) = subplots(1, 3, width_ratios=[1.8, 1, 1])
left.plot(np.arange(len(history["loss"])) / 2, history["loss"], color=COLOURS[4], lw=0.5, label="minibatches")
left.plot(steps, own, color=COLOURS[3], label="validation")
left.plot(steps, average, "--", color=COLOURS[2], label="validation of the average")
left.set(xlabel="update", ylabel="loss (nats per character)")
middle.plot(history["rate"], color=COLOURS[4])
middle.set(xlabel="update", ylabel="learning rate")
right.plot(history["norm"], color=COLOURS[4], lw=0.8)
right.axhline(CLIP, color=COLOURS[3], lw=1, label="clipped above this")
right.set(xlabel="update", ylabel="norm of the gradient")
figure.legend(loc="outside lower center", ncols=2)

# %%
# The average lags behind while the loss falls fast. When the rate has come down, there is little noise left to average,
# and in the long setting both become the same. The example of averages shows where an average pays.
#
# The averaged parameters write a text: each character is drawn from its probabilities, given those before it. After the
# 600 updates of the long setting it has the look of the reference, and some of its words.
rng, written = np.random.default_rng(2), list(valid_codes[:CONTEXT])
with opt.averaged():
    for _ in range(100 if SHORT else 400):
        probabilities = forward(opt.params, np.array([written[-CONTEXT:]]))[0][0, -1].astype(np.float64)
        written.append(rng.choice(len(alphabet), p=probabilities / probabilities.sum()))
print("".join(alphabet[code] for code in written[CONTEXT:]))

show()

assert abs(fall - 1) < 1e-3
assert child.returncode == -signal.SIGKILL
assert same_bits
assert max(history["norm"][:WARMUP]) > CLIP > min(history["norm"])
assert own[-1] < 0.85 * own[0]
assert average[-1] < min(average[0], np.log(len(alphabet)))
