"""The optimizers that are compared: one row each, in every contender's own terms."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from bench.case import Work

LR = 1e-3
EMA_DECAY = 0.999
MAX_NORM = 1.0


#: Takes p, g, the slots of this array, the step counted from 1, and the learning rate.
NumPyRule = Callable[[np.ndarray, np.ndarray, list[np.ndarray], int, float], None]


@dataclass(frozen=True)
class Rule(Work):
    """A step in the terms of each contender: class and keywords, or a function.

    `whole` is a whole update: clip by the global norm, step, average the parameters, clear the gradients.
    """

    fastopt: tuple[str, dict[str, Any]] = ("", {})
    torch: tuple[str, dict[str, Any]] = ("", {})
    deepspeed: tuple[str, dict[str, Any]] | None = None
    optax: Callable[[ModuleType], Any] | None = None
    naive: NumPyRule | None = None
    in_place: NumPyRule | None = None
    whole: bool = False
    #: "constant", "scheduled" by each contender's own means, "written" into its options in each step, or "driven" by a
    #: scheduler in torch's style.
    lr: str = "constant"

    @property
    def slots(self) -> int:
        return self.written - 1 - self.whole


# What one writes without thinking about temporaries.


def sgd(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    p -= lr * g


def momentum(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    s[0] = 0.9 * s[0] + g
    p -= lr * s[0]


def adagrad(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    s[0] = s[0] + g**2
    p -= lr * g / (np.sqrt(s[0]) + 1e-10)


def rmsprop(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    s[0] = 0.99 * s[0] + 0.01 * g**2
    p -= lr * g / (np.sqrt(s[0]) + 1e-8)


def adam(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    s[0] = 0.9 * s[0] + 0.1 * g
    s[1] = 0.999 * s[1] + 0.001 * g**2
    p -= lr * (s[0] / (1 - 0.9**t)) / (np.sqrt(s[1] / (1 - 0.999**t)) + 1e-8)


def adamw(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    p -= lr * 0.01 * p
    adam(p, g, s, t, lr)


# The same by someone who minds temporaries: the last of the slots is for them.


def sgd_in_place(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    np.multiply(g, lr, out=s[0])
    p -= s[0]


def momentum_in_place(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    s[0] *= 0.9
    s[0] += g
    np.multiply(s[0], lr, out=s[1])
    p -= s[1]


def adam_in_place(p: np.ndarray, g: np.ndarray, s: list[np.ndarray], t: int, lr: float) -> None:
    m, v, scratch = s
    m *= 0.9
    np.multiply(g, 0.1, out=scratch)
    m += scratch
    v *= 0.999
    np.multiply(g, g, out=scratch)
    scratch *= 0.001
    v += scratch
    np.sqrt(v, out=scratch)
    scratch *= (1 - 0.999**t) ** -0.5
    scratch += 1e-8
    np.divide(m, scratch, out=scratch)
    scratch *= lr / (1 - 0.9**t)
    p -= scratch


RULES = {
    "adam": Rule(
        written=3,
        fastopt=("Adam", {}),
        torch=("Adam", {}),
        deepspeed=("DeepSpeedCPUAdam", {"adamw_mode": False}),
        optax=lambda optax: optax.adam(LR),
        naive=adam,
        in_place=adam_in_place,
    ),
    "sgd": Rule(
        written=1,
        fastopt=("SGD", {}),
        torch=("SGD", {}),
        optax=lambda optax: optax.sgd(LR),
        naive=sgd,
        in_place=sgd_in_place,
    ),
    "momentum": Rule(
        written=2,
        fastopt=("SGD", {"momentum": 0.9}),
        torch=("SGD", {"momentum": 0.9}),
        optax=lambda optax: optax.sgd(LR, momentum=0.9),
        naive=momentum,
        in_place=momentum_in_place,
    ),
    "adagrad": Rule(
        written=2,
        fastopt=("Adagrad", {}),
        torch=("Adagrad", {}),
        deepspeed=("DeepSpeedCPUAdagrad", {}),
        optax=lambda optax: optax.adagrad(LR),
        naive=adagrad,
    ),
    "rmsprop": Rule(
        written=2,
        fastopt=("RMSprop", {}),
        torch=("RMSprop", {}),
        optax=lambda optax: optax.rmsprop(LR, decay=0.99),
        naive=rmsprop,
    ),
    "clipped": Rule(
        written=3,
        norm=True,
        fastopt=("AdamW", {"weight_decay": 0.01, "clip_global_norm": MAX_NORM}),
        torch=("AdamW", {"weight_decay": 0.01}),
    ),
    "whole": Rule(
        written=4,
        norm=True,
        write_grads=True,
        whole=True,
        fastopt=(
            "AdamW",
            {"weight_decay": 0.01, "clip_global_norm": MAX_NORM, "ema_decay": EMA_DECAY, "zero_grads": True},
        ),
        torch=("AdamW", {"weight_decay": 0.01}),
        deepspeed=("DeepSpeedCPUAdam", {"adamw_mode": True, "weight_decay": 0.01}),
        optax=lambda optax: optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adamw(LR, weight_decay=0.01)),
        naive=adamw,
    ),
}
#: The other elementwise optimizers, against their own limit, torch and optax.
OTHERS = {
    "adadelta": Rule(3, fastopt=("Adadelta", {}), torch=("Adadelta", {}), optax=lambda optax: optax.adadelta(LR)),
    "adamax": Rule(3, fastopt=("Adamax", {}), torch=("Adamax", {}), optax=lambda optax: optax.adamax(LR)),
    "nadam": Rule(3, fastopt=("NAdam", {}), torch=("NAdam", {}), optax=lambda optax: optax.nadam(LR)),
    "radam": Rule(3, fastopt=("RAdam", {}), torch=("RAdam", {}), optax=lambda optax: optax.radam(LR)),
    "rprop": Rule(3, fastopt=("Rprop", {}), torch=("Rprop", {}), optax=lambda optax: optax.rprop(LR)),
    "asgd": Rule(2, fastopt=("ASGD", {}), torch=("ASGD", {})),
    "delta-bar-delta": Rule(3, fastopt=("DeltaBarDelta", {})),
    "delta-bar-delta, momentum": Rule(4, fastopt=("DeltaBarDelta", {"momentum": 0.9})),
    "amsgrad": Rule(4, fastopt=("Adam", {"amsgrad": True}), torch=("Adam", {"amsgrad": True})),
    "amsgrad, corrected": Rule(4, fastopt=("Adam", {"amsgrad": "corrected"}), optax=lambda optax: optax.amsgrad(LR)),
    "ftrl": Rule(3, fastopt=("FTRL", {})),
    "lion": Rule(2, fastopt=("Lion", {}), optax=lambda optax: optax.lion(LR, weight_decay=0.0)),
    "signum": Rule(2, fastopt=("Signum", {}), optax=lambda optax: optax.signum(LR)),
    "adabelief": Rule(3, fastopt=("AdaBelief", {}), optax=lambda optax: optax.adabelief(LR)),
    "yogi": Rule(3, fastopt=("Yogi", {}), optax=lambda optax: optax.yogi(LR)),
    "adan": Rule(5, fastopt=("Adan", {}), optax=lambda optax: optax.adan(LR)),
    "ademamix": Rule(4, fastopt=("AdEMAMix", {}), optax=lambda optax: optax.contrib.ademamix(LR)),
    "schedule-free sgd": Rule(
        2, fastopt=("ScheduleFreeSGD", {}), optax=lambda optax: optax.contrib.schedule_free_sgd(LR)
    ),
    "schedule-free adamw": Rule(
        3, fastopt=("ScheduleFreeAdamW", {}), optax=lambda optax: optax.contrib.schedule_free_adamw(LR)
    ),
}
#: Updates of a network, by the rows' names.
LOOP_RULES = {"SGD": RULES["sgd"], "momentum": RULES["momentum"], "Adam": RULES["adam"]}
OVERHEAD_RULES = LOOP_RULES | {
    "Adam + global clip": replace(RULES["adam"], norm=True, fastopt=("Adam", {"clip_global_norm": MAX_NORM})),
    "Adam, scheduled lr": replace(RULES["adam"], lr="scheduled"),
    "Adam, lr written": replace(RULES["adam"], lr="written"),
    "Adam, lr by a driver": replace(RULES["adam"], lr="driven"),
}
NORM = Work(written=0, norm=True)
CLIP = Work(written=0, norm=True, write_grads=True)
