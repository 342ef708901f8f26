"""torch's hooks around a step, and its profiler."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

#: Hooks of all optimizers: torch's own dicts, which it changes in place.
BEFORE, AFTER = torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks

#: Whether a profiler records; and what torch.compile has Python call before it runs a function, None outside of it.
is_recorded = torch.autograd._profiler_enabled
compiler = torch._C._dynamo.eval_frame.get_eval_frame_callback


def are_due(opt: Any) -> bool:
    """Return whether something is to be done around a step: for hooks, a profiler or torch.compile."""
    return bool(
        opt._optimizer_step_pre_hooks
        or opt._optimizer_step_post_hooks
        or BEFORE
        or AFTER
        or is_recorded()
        or compiler() is not None
    )


@torch._disable_dynamo  # type: ignore[untyped-decorator]  # torch.compile leaves a step as it is
@torch_optimizer.Optimizer.profile_hook_step  # type: ignore[untyped-decorator]
def step_with_hooks(opt: Any, *arguments: Any, **keywords: Any) -> Any:
    """Make a step with all hooks around it, recorded by the profiler."""
    return opt.make_step(*arguments, **keywords)
