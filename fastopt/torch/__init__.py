"""fastopt's optimizers for torch on the CPU: each a ``torch.optim.Optimizer`` over tensors."""

from .. import optimizers
from .classes import optimizer_of_tensors
from .offload import Offload
from .optimizer import Optimizer

ASGD = optimizer_of_tensors(optimizers.ASGD)
FTRL = optimizer_of_tensors(optimizers.FTRL)
LAMB = optimizer_of_tensors(optimizers.LAMB)
LARS = optimizer_of_tensors(optimizers.LARS)
SGD = optimizer_of_tensors(optimizers.SGD)
SWATS = optimizer_of_tensors(optimizers.SWATS)
AdaBelief = optimizer_of_tensors(optimizers.AdaBelief)
Adadelta = optimizer_of_tensors(optimizers.Adadelta)
Adafactor = optimizer_of_tensors(optimizers.Adafactor)
Adagrad = optimizer_of_tensors(optimizers.Adagrad)
Adam = optimizer_of_tensors(optimizers.Adam)
Adamax = optimizer_of_tensors(optimizers.Adamax)
AdamW = optimizer_of_tensors(optimizers.AdamW)
Adan = optimizer_of_tensors(optimizers.Adan)
AdEMAMix = optimizer_of_tensors(optimizers.AdEMAMix)
DeltaBarDelta = optimizer_of_tensors(optimizers.DeltaBarDelta)
Lion = optimizer_of_tensors(optimizers.Lion)
Muon = optimizer_of_tensors(optimizers.Muon)
NAdam = optimizer_of_tensors(optimizers.NAdam)
Prodigy = optimizer_of_tensors(optimizers.Prodigy)
RAdam = optimizer_of_tensors(optimizers.RAdam)
RMSprop = optimizer_of_tensors(optimizers.RMSprop)
Rprop = optimizer_of_tensors(optimizers.Rprop)
ScheduleFreeAdamW = optimizer_of_tensors(optimizers.ScheduleFreeAdamW)
ScheduleFreeSGD = optimizer_of_tensors(optimizers.ScheduleFreeSGD)
Signum = optimizer_of_tensors(optimizers.Signum)
SparseAdam = optimizer_of_tensors(optimizers.SparseAdam)
Yogi = optimizer_of_tensors(optimizers.Yogi)

__all__ = [*optimizers.__all__, "Offload", "Optimizer", "optimizer_of_tensors"]
