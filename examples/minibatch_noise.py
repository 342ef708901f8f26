r"""
Minibatch noise and the decay of the rate
=========================================

The gradient of a minibatch of :math:`B` examples is that of the whole set plus noise, whose standard deviation falls
as :math:`1 / \sqrt B`: four times the work makes half the noise. Far from the minimum the noise does little harm, and
small batches are cheap. Near it each step :math:`\theta \leftarrow \theta - \eta\, (g + \mathrm{noise})` throws the
parameters about, and with a constant rate :math:`\eta` the loss stops at a level proportional to :math:`\eta`. So the
rate must fall: slowly enough to arrive, and far enough for the noise to fade.

The model is linear, with L2 decay, so that there is one minimum, which L-BFGS finds with the whole set.
"""

import numpy as np
from data import digits
from nets import Dense, decayed_loss
from pictures import COLOURS, GREY, show, subplots
from setting import SHORT

import fastopt

DECAY, SIZE, EVERY = 0.05, 16, 20
STEPS = 480 if SHORT else 4800
x, labels, _, _ = digits()


def loss_and_grads(model, chosen=slice(None)):
    return decayed_loss(model, x[chosen], labels[chosen], DECAY)


model = Dense(np.random.default_rng(0), 64, 10, dtype=np.float64)
lowest = fastopt.minimize(lambda params: loss_and_grads(model), model.params).loss
best = {name: p.astype(np.float32) for name, p in model.params.items()}
print(f"the lowest loss is {lowest:.6f}")

# %%
# The noise at the minimum
# ------------------------
# At the minimum the gradient of the whole set is 0, and that of a minibatch is nothing but noise.

sizes = np.array([1, 4, 16, 64, 256])
rng, noise = np.random.default_rng(0), []
for size in sizes:
    grads = [loss_and_grads(model, rng.integers(len(x), size=size))[1]["W"] for _ in range(100)]
    noise.append(np.sqrt(np.mean(np.square(grads).sum(axis=(1, 2)))))


# %%
# So a run that begins at the minimum leaves it, and the loss settles at a level above the lowest. For a quadratic loss
# and small rates theory says :math:`\eta\, E\|\mathrm{noise}\|^2 / 4`, whatever the curvature. Large rates come out
# higher, and small ones take long to get there: in a short run they are lower.
def run(lr, start=None):
    """Return the loss of every minibatch, and every few steps that of the whole set, above the lowest one."""
    rng = np.random.default_rng(1)
    model = Dense(rng, 64, 10)
    for name, p in (start or {}).items():
        model.params[name][...] = p
    opt = fastopt.SGD(model.params, lr=lr)
    of_batch, of_set = [], []
    while opt.step_count < STEPS:
        if opt.step_count % EVERY == 0:
            of_set.append(loss_and_grads(model)[0] - lowest)
        loss, grads = loss_and_grads(model, rng.integers(len(x), size=SIZE))
        of_batch.append(loss - lowest)
        opt.step(grads)
    return np.array(of_batch), np.array(of_set)


rates = np.array([0.4, 0.2, 0.1, 0.05])
levels = np.array([run(lr, best)[1][STEPS // EVERY // 2 :].mean() for lr in rates])
theory = rates * noise[2] ** 2 / 4

figure, (left, right) = subplots(1, 2)
left.loglog(sizes, noise, "o", color=COLOURS[0], label="measured")
left.loglog(sizes, noise[0] / np.sqrt(sizes), color=GREY, lw=1, label=r"proportional to $1/\sqrt{B}$")
left.set(xlabel="examples in a minibatch, $B$", ylabel="norm of the gradient's noise")
left.set(xticks=sizes, xticklabels=sizes, yticks=[0.2, 0.5, 1, 2], yticklabels=[0.2, 0.5, 1, 2])
right.loglog(rates, levels, "o", color=COLOURS[0], label="measured")
right.loglog(rates, theory, color=GREY, lw=1, label="theory")
right.set(xlabel=r"constant rate $\eta$", ylabel="loss, above the lowest")
right.set(xticks=rates, xticklabels=rates, yticks=[0.005, 0.01, 0.02, 0.05], yticklabels=[0.005, 0.01, 0.02, 0.05])
right.margins(y=0.1)
for ax in (left, right):
    ax.minorticks_off()
    ax.legend()

# %%
# Decays
# ------
# Each schedule begins or peaks at the same rate.
#
# - Exponential: :math:`\eta_0 \gamma^t`.
# - Halving: half the rate after each sixth of the run.
# - 1/t: :math:`\eta_0 / (1 + kt)`. The sum of these rates is infinite, so they reach a minimum however far it is. The
#   sum of their squares is finite, so the noise averages out (Robbins and Monro, 1951).
# - Cyclical: up and down, to half the height each time. A high rate crosses plateaus, a low one settles.
# - One cycle: up for the first third, then down to almost nothing.

PEAK = 0.5
schedules = {
    "constant": fastopt.schedules.constant(PEAK),
    "exponential": fastopt.schedules.exponential(PEAK, gamma=0.02 ** (1 / STEPS)),
    "halving": fastopt.schedules.step_decay(PEAK, step_size=STEPS // 6, gamma=0.5),
    "1/t": fastopt.schedules.inverse_time(PEAK, k=20 / STEPS),
    "cyclical": fastopt.schedules.triangular2(0.005, PEAK, step_size_up=STEPS // 8),
    "one cycle": fastopt.schedules.one_cycle(PEAK, total=STEPS),
}
curves = {name: run(schedule) for name, schedule in schedules.items()}
times = np.arange(0, STEPS, EVERY)

# %%
# A run shows the losses of its minibatches. They differ by more than the whole set gains in the second half of the run,
# so one can't see there that the whole set still gains.

figure, axes = subplots(1, 2, sharey=True)
for ax, name in zip(axes, ("constant", "one cycle"), strict=True):
    of_batch, of_set = curves[name]
    ax.plot(np.arange(STEPS)[::5], of_batch[::5], ".", color=COLOURS[4], ms=2, label="a minibatch")
    ax.plot(times, of_set, color=COLOURS[3], label="the whole set")
    ax.set(title=name, xlabel="step", ylim=(-0.4, 1))
axes[0].set_ylabel("loss, above the lowest")
figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=4)

# %%
# The loss of the whole set on a logarithmic scale, beside that of the constant rate (grey). The small pictures show the
# rates.

figure, axes = subplots(2, 3, sharex=True, sharey=True, figsize=(7, 4.8))
for ax, colour, (name, schedule) in zip(axes.flat, [GREY, *COLOURS], schedules.items(), strict=False):
    ax.semilogy(times, curves["constant"][1], color=GREY, lw=0.8)
    ax.semilogy(times, curves[name][1], color=colour, lw=1.2)
    ax.set(title=name, ylim=(3e-4, 60))
    inset = ax.inset_axes([0.5, 0.72, 0.5, 0.28])
    inset.plot(times, [schedule(step) for step in times], color=colour)
    inset.set(xticks=[], yticks=[0, PEAK], ylim=(0, 1.1 * PEAK))
figure.supxlabel("step")
figure.supylabel("loss of the whole set, above the lowest")

ends = {name: of_set[-len(of_set) // 20 :].mean() for name, (_, of_set) in curves.items()}
for name, end in ends.items():
    print(f"{name:12} {end:.5f} above the lowest loss at the end")

show()

assert abs(np.polyfit(np.log(sizes), np.log(noise), 1)[0] + 0.5) < 0.1
assert np.all(levels[:-1] > 1.4 * levels[1:])
assert abs(levels[2] / theory[2] - 1) < 0.4
assert all(end < 0.6 * ends["constant"] for name, end in ends.items() if name != "constant")
