"""torch's hooks around a step, and its profiler."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

#: Hooks of all optimizers: torch's own dicts, which it changes in place.
BEFORE, AFTER = torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks


def are_due(opt: Any) -> bool:
    """Return whether a step has hooks, or a profiler that records it."""
    return bool(
        opt._optimizer_step_pre_hooks
        or opt._optimizer_step_post_hooks
        or BEFORE
        or AFTER
        or torch.autograd._profiler_enabled()
    )


@torch_optimizer.Optimizer.profile_hook_step  # type: ignore[untyped-decorator]
def step_with_hooks(opt: Any, *arguments: Any, **keywords: Any) -> Any:
    """Make a step with all hooks around it, and recorded by the profiler."""
    return opt.make_step(*arguments, **keywords)
