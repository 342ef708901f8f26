"""The number of threads; this module imports no NumPy, whose BLAS reads the environment when it is loaded."""

import os


def set_threads(threads: int) -> None:
    """Give every contender this many threads; call it before any of them, or NumPy, is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FASTOPT_NUM_THREADS"):
        os.environ[name] = str(threads)
    # The size of XLA's own pool; its flag intra_op_parallelism_threads has no effect on the CPU in jax 0.10.
    for name in ("NPROC", "PJRT_NPROC"):
        os.environ[name] = str(threads)
