r"""
Averages of parameters and of models
====================================

Near a minimum, minibatch noise drives the parameters around it. Their average stays close to it, even where the rate
never falls. Polyak's average is the mean of all parameters so far,
:math:`\bar\theta_t = \frac{1}{t} \sum_{i \le t} \theta_i`; the exponential one forgets,
:math:`\bar\theta_t = \beta \bar\theta_{t-1} + (1 - \beta)\, \theta_t`, and is a mean of about the last
:math:`1 / (1 - \beta)` parameters. The training itself goes on with :math:`\theta_t`.

A network has many minima, and the mean of two of them need not be one. Their predictions can be averaged: models that
err in different places correct each other. A snapshot ensemble collects the models in one run, whose rate falls and
rises again.
"""

import numpy as np
from data import digits, draws
from nets import Dense, Net, ReLU, accuracy, decayed_loss, softmax_cross_entropy, train
from pictures import COLOURS, GREY, show, subplots
from scipy.special import softmax
from setting import SHORT

import fastopt

# %%
# Averages of the parameters
# --------------------------
# The picture has a quadratic loss in two dimensions with a noisy gradient. The mean of the parameters comes to rest in
# the middle of them.

rng = np.random.default_rng(0)
theta = np.array([-2.0, 1.0])
opt = fastopt.SGD(theta, lr=0.3, polyak=True)
path, means = [theta.copy()], [theta.copy()]
for _ in range(300):
    opt.step(np.array([1.0, 0.3]) * theta + rng.normal(size=2))
    path.append(theta.copy())
    means.append(opt.ema.copy())

figure, ax = subplots(figsize=(6, 4.2))
ax.plot(*np.transpose(path), ".-", color=GREY, lw=0.4, ms=2, label="the parameters themselves")
ax.plot(*np.transpose(means), color=COLOURS[0], label="their mean")
ax.plot(0, 0, "+", color=COLOURS[3], ms=12, mew=2, label="minimum")
ax.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
figure.legend(loc="outside lower center", ncols=3)

# %%
# Now a linear classifier of digits with L2 decay, whose lowest loss is known by L-BFGS. The rate is constant.

DECAY, RATE, STEPS, EVERY = 0.05, 0.2, 400 if SHORT else 4000, 20
x, labels, test_x, test_labels = digits()


def loss_and_grads(model, chosen=slice(None)):
    return decayed_loss(model, x[chosen], labels[chosen], DECAY)


def excess_losses(**average):
    """Return the losses of the parameters and of their average, above the lowest, every few steps."""
    rng, model = np.random.default_rng(0), Dense(np.random.default_rng(0), 64, 10)
    opt, excess = fastopt.SGD(model.params, lr=RATE, **average), []
    while opt.step_count < STEPS:
        opt.step(loss_and_grads(model, rng.integers(len(x), size=16))[1])
        if opt.step_count % EVERY == 0:
            own = loss_and_grads(model)[0]
            with opt.averaged():
                excess.append([own - lowest, loss_and_grads(model)[0] - lowest])
    return np.transpose(excess)


model = Dense(np.random.default_rng(0), 64, 10, dtype=np.float64)
lowest = fastopt.minimize(lambda params: loss_and_grads(model), model.params).loss
averages = {
    "mean of all": {"polyak": True},
    "mean of the last 3/4": {"polyak": True, "polyak_start": STEPS // 4},
    "exponential, 0.98": {"ema_decay": 0.98},
}
curves = {name: excess_losses(**average) for name, average in averages.items()}

times = np.arange(EVERY, STEPS + 1, EVERY)
figure, ax = subplots()
ax.semilogy(times, curves["mean of all"][0], color=GREY, lw=0.8, label="the parameters themselves")
for colour, (name, (_, excess)) in zip((COLOURS[0], COLOURS[3], COLOURS[1]), curves.items(), strict=True):
    ax.semilogy(times, excess, color=colour, label=name)
ax.set(xlabel="step", ylabel="loss, above the lowest")
figure.legend(loc="outside lower center", ncols=2)

# %%
# The exponential average soon gains all that it can. The mean goes on gaining, but the first parameters, which are far
# from the minimum, weigh on it for long. It is better to begin it later.
#
# Snapshots of one run
# --------------------
# The rate of a small network falls along a cosine to 0 and jumps up again. At the end of each cycle the ensemble keeps
# a copy of the parameters. It predicts with the mean of the probabilities of all copies. Its loss can't be higher than
# the mean of theirs, since :math:`-\log` is convex; how much lower it is depends on how much the copies differ.

MODELS, CYCLE, COUNT = (6, 100, 400) if SHORT else (6, 300, 800)
train_x, train_labels, _, _ = digits(COUNT)


def new_net(rng):
    return Net([Dense(rng, 64, 16), ReLU(), Dense(rng, 16, 16), ReLU(), Dense(rng, 16, 10)])


def predict(params):
    """Return the probabilities of the test digits."""
    net = new_net(np.random.default_rng(0))
    for name, arrays in params.items():
        net.layers[name].params = arrays
    return softmax(net.forward(test_x), axis=1)


def fit(lr, steps, seed=0, ensemble=None):
    """Return the parameters of a net, and its loss on the test digits every few steps."""
    rng, losses = np.random.default_rng(seed), []
    net = new_net(rng)
    opt = fastopt.SGD(net.params, lr=lr, momentum=0.9, clip_global_norm=1.0)
    for batch in draws(rng, len(train_x), steps):
        train(net, opt, train_x, train_labels, [batch])
        if ensemble is not None:
            ensemble.update(net.params, step=opt.step_count)
        if opt.step_count % 10 == 0:
            losses.append(softmax_cross_entropy(net.forward(test_x), test_labels)[0])
    return net.params, losses


rates = fastopt.schedules.cosine_restarts(0.2, CYCLE)
ensemble = fastopt.SnapshotEnsemble(MODELS, schedule=rates)
_, of_cycles = fit(rates, MODELS * CYCLE, ensemble=ensemble)
long_run, of_long_run = fit(fastopt.schedules.cosine(0.2, MODELS * CYCLE), MODELS * CYCLE)
rate = fastopt.schedules.cosine(0.2, CYCLE)
independent = [fit(rate, CYCLE, seed=seed)[0] for seed in range(1, MODELS + 1)]

predictions = {
    **{f"snapshot {number}": predict(params) for number, params in enumerate(ensemble.snapshots, 1)},
    "mean of the parameters": predict(ensemble.average_params()),
    "ensemble of the snapshots": ensemble.average_predictions(predict),
    "one long run": predict(long_run),
    "ensemble of short runs": np.mean([predict(params) for params in independent], axis=0),
}
losses = {name: -np.log(p[range(len(p)), test_labels]).mean() for name, p in predictions.items()}
of_snapshots = list(losses.values())[:MODELS]
errors = {name: 1 - accuracy(p, test_labels) for name, p in predictions.items()}

figure, (left, right) = subplots(1, 2, figsize=(7, 3.8))
times = np.arange(10, MODELS * CYCLE + 1, 10)
left.plot(times, of_cycles, color=COLOURS[4], label="cycles")
left.plot(times, of_long_run, color=GREY, label="one long run")
left.plot(ensemble.metrics, of_snapshots, "o", color=COLOURS[0], label="snapshots")
left.axhline(losses["ensemble of the snapshots"], color=COLOURS[3], label="ensemble of the snapshots")
left.set(xlabel="step", ylabel="loss on test digits", ylim=(0, 1))
colours = [COLOURS[0]] * MODELS + [COLOURS[2], COLOURS[3], GREY, COLOURS[1]]
bars = right.barh(list(losses), list(losses.values()), color=colours)
right.bar_label(bars, [f"{error:.1%} wrong" for error in errors.values()], padding=3)
right.set(xlabel="loss on test digits", xlim=(0, 1.8 * max(losses.values())))
right.invert_yaxis()
figure.legend(loc="outside lower center", ncols=4)

# %%
# The ensemble has a lower loss than its members, and than one run of the same length with one long decay: a network
# that is confident and wrong costs much, and seldom are all of them. The mean of the parameters of the snapshots works
# too, but less well; these minima are neighbours. That of networks from different beginnings is useless, while their
# ensemble is good, and costs the same here. With the long setting's cycles of 300 steps it is as good as that of the
# snapshots; in the short setting, where 100 steps are few for a beginning from scratch, its loss is higher.

useless = 1 - accuracy(predict(fastopt.averaging.mean(independent)), test_labels)
print(f"mean of the parameters of short runs: {useless:.1%} wrong")
for name, loss in losses.items():
    print(f"{name:27} loss {loss:.3f}, {errors[name]:.1%} wrong")

show()

assert np.array_equal(curves["mean of all"][0], curves["exponential, 0.98"][0])  # averages don't change the training
for name in ("mean of the last 3/4", "exponential, 0.98"):
    own, excess = curves[name]
    assert excess[-5:].mean() < 0.6 * own[-5:].mean()
assert np.linalg.norm(means[-1]) < 0.5 * np.sqrt(np.mean(np.square(path[20:]).sum(axis=1)))
assert useless > 3 * errors["ensemble of short runs"]
assert losses["ensemble of the snapshots"] < 0.85 * min(np.mean(of_snapshots), losses["one long run"])
