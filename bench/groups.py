"""What is compared: each group is a piece of work, sets of arrays, and contenders."""

from dataclasses import dataclass, field

from bench import distributed
from bench.backward import BACKWARD, MODELS
from bench.building import BUILD
from bench.case import Case, Work
from bench.combined import COMBINED, PAIR_SETS, PAIRS_OF_OPTIMIZERS
from bench.compiled import BUILT_IN, COMPILED, IN_CACHE, OWN, OWN_RULES, OWN_SETS, PAIRS
from bench.contenders import BRIEF, FAST, NORMS, OPTIONS, STEP, UPDATE, WHOLE, Contender
from bench.cuda import CUDA
from bench.dead import DEAD, DEAD_RULES, DEAD_SETS
from bench.full_batch import (
    BFGS,
    BFGS_WORKS,
    BOXED,
    BOXED_WORKS,
    DENSE_SIZES,
    LBFGS,
    LBFGS_BOXED,
    LBFGS_WORKS,
    SIZES_OF_X,
)
from bench.functional import FUNCTIONAL
from bench.networks import LOOP, OVERHEAD
from bench.products import BEHIND
from bench.rules import CLIP, LOOP_RULES, NORM, OTHERS, OVERHEAD_RULES, RULES
from bench.shapes import ARRAYS, DECADES, GIGA, MANY, NETS, SIZES, TINY, ArraySet
from bench.spacy import RUNS, SPACY_SETS, SPACY_TRAIN, THINC, UPDATE_OF_THINC
from bench.sparse import SPARSE, TABLE
from bench.sparse_codes import CODES, CODES_WORKS, ROWS
from bench.tensors import TENSORS, TENSORS_IN_LOOP, TENSORS_OVERHEAD

QUICK = 1 << 20  # elements: larger sets are left out of a quick run


@dataclass(frozen=True)
class Group:
    """One table of the report and one picture."""

    title: str
    work: Work | dict[str, Work]  # several, by name: a row for each of them
    sets: dict[str, ArraySet] = field(default_factory=lambda: ARRAYS)
    contenders: dict[str, Contender] = field(default_factory=lambda: STEP | TENSORS)
    busy: bool = False  # with a spinning process on every core
    behind_product: bool = False  # each step right after a matrix product
    per_element: bool = False  # show nanoseconds per element in place of microseconds
    by_elements: bool = False  # draw times against the number of elements, in place of percents of the limit
    each_thread_count: bool = False  # once for 1, 2, ... threads, each in a process of its own
    blas_threads: tuple[int, ...] = ()  # rows for each of these numbers of threads of NumPy's BLAS
    pairs: list[tuple[str, str]] = field(default_factory=list)  # contenders whose ratio is shown, with its median
    gpu: bool = False  # only where it is asked for by name
    on_ranks: bool = False  # by 1, 2 and 4 processes under mpiexec; only where it is asked for by name

    @property
    def is_noisy(self) -> bool:
        """Whether other threads run by intent, so that noise tells nothing."""
        return self.busy or self.behind_product or bool(self.blas_threads)

    def cases(self, quick: bool, threads: int) -> dict[str, Case]:
        """What each row measures, by the row's label; without the large sets of arrays in a quick run."""
        works = self.work if isinstance(self.work, dict) else {"": self.work}
        return {
            self.label(name, label, blas_threads): Case(work, arrays, threads, blas_threads)
            for name, work in works.items()
            for label, arrays in self.sets.items()
            for blas_threads in self.blas_threads or [None]
            if not quick or arrays.elements <= QUICK
        }

    def label(self, work: str, arrays: str, blas_threads: int | None) -> str:
        """A row's label: the parts in which the group's rows differ."""
        parts = [work] if work else []
        if not work or len(self.sets) > 1:
            parts.append(arrays)
        if blas_threads:
            parts.append(f"BLAS threads {blas_threads}")
        return ", ".join(parts)


def only(*starts: str) -> dict[str, ArraySet]:
    """The sets of arrays whose names start so."""
    return {label: each for label, each in ARRAYS.items() if label.startswith(starts)}


GROUPS = {
    "adam": Group("Adam", RULES["adam"]),
    "sgd": Group("SGD", RULES["sgd"]),
    "momentum": Group("SGD with momentum", RULES["momentum"]),
    "adagrad": Group("Adagrad", RULES["adagrad"]),
    "rmsprop": Group("RMSprop", RULES["rmsprop"]),
    "whole": Group("Whole update: clip by global norm, AdamW, average, clear", RULES["whole"], contenders=WHOLE),
    "options": Group(
        "Adam: what each option costs", RULES["adam"], only("one of", "GPT", "ResNet", "MLP"), contenders=OPTIONS
    ),
    "others": Group("The other elementwise optimizers, on ResNet-50's arrays", OTHERS, only("ResNet"), BRIEF),
    "sparse": Group("Adam, few rows of a table (limit: the dense step's)", RULES["adam"], TABLE, SPARSE),
    "norm": Group("Global norm of the gradients", NORM, contenders=NORMS),
    "clip": Group("Clip the gradients by their global norm", CLIP, contenders=NORMS),
    "sizes": Group(
        "Adam, one array of each size: nanoseconds per element", RULES["adam"], SIZES, FAST, per_element=True
    ),
    "update": Group(
        "Adam, one float32 array: from ten parameters to 100 million", RULES["adam"], DECADES, UPDATE, by_elements=True
    ),
    "threads": Group(
        "Adam, threads", RULES["adam"], only("ResNet", "one of 200k", "MLP"), FAST, each_thread_count=True
    ),
    "busy": Group(
        "Adam on a busy machine (a spinning process on every core)",
        RULES["adam"],
        only("ResNet", "MLP"),
        FAST,
        busy=True,
    ),
    "behind": Group(
        "Adam right after a matrix product in NumPy, whose idle threads still spin",
        RULES["adam"],
        only("ResNet", "one of 200k", "MLP", "1,000 of 256"),
        BEHIND,
        behind_product=True,
    ),
    "loop": Group(
        "Inside a NumPy training loop: the update alone, right after forward and backward",
        LOOP_RULES,
        NETS,
        LOOP | TENSORS_IN_LOOP,
        blas_threads=(1, 2),
    ),
    "overhead": Group(
        "Arrays of 16 elements: in a nested dict and with new gradients, unless a column says otherwise",
        OVERHEAD_RULES,
        TINY,
        OVERHEAD | TENSORS_OVERHEAD,
    ),
    "build": Group(
        "Building an optimizer and its first step: arrays of one element",
        LOOP_RULES,
        MANY,
        BUILD,
    ),
    "dead": Group(
        "A gradient that has become 0: a step with one, and one long after it",
        DEAD_RULES,
        DEAD_SETS,
        DEAD,
    ),
    "compiled": Group(
        "Built-in rules, compiled when they are first used, beside their C loops: one thread, one array of 16K",
        BUILT_IN,
        IN_CACHE,
        COMPILED,
        pairs=PAIRS,
    ),
    "own": Group("Three rules that nobody has", OWN, OWN_SETS, OWN_RULES, pairs=[("fastopt NumPy", "fastopt")]),
    "combined": Group(
        "Two optimizers over one network, the first for matrices",
        PAIRS_OF_OPTIMIZERS,
        PAIR_SETS,
        COMBINED,
        pairs=[("two optimizers", "Combined"), ("Combined", "one AdamW"), ("two, clipped each", "Combined, clipped")],
    ),
    "functional": Group(
        "Adam as a pure function, in the form of optax (fastopt: in place)",
        RULES["adam"],
        only("ResNet", "one of 200k", "MLP"),
        FUNCTIONAL,
        each_thread_count=True,
        pairs=[("optax jit", "functional, apply"), ("optax", "functional, update")],
    ),
    "torch": Group(
        "Adam on a network of torch: right after its backward pass, and hot",
        RULES["adam"],
        MODELS,
        BACKWARD,
        each_thread_count=True,
        pairs=[("torch fused", "fastopt.torch"), ("torch foreach", "fastopt.torch")],
    ),
    "minimize": Group(
        "L-BFGS: an iteration outside the function, history of 10 pairs",
        LBFGS_WORKS,
        SIZES_OF_X,
        LBFGS,
        each_thread_count=True,
        pairs=[("SciPy", "fastopt"), ("torch", "fastopt"), ("naive NumPy", "fastopt")],
    ),
    "minimize-box": Group(
        "L-BFGS with bounds: an iteration outside the function",
        BOXED_WORKS,
        BOXED,
        LBFGS_BOXED,
        each_thread_count=True,
        pairs=[("SciPy", "fastopt")],
    ),
    "minimize-bfgs": Group(
        "BFGS with a dense matrix: an iteration outside the function",
        BFGS_WORKS,
        DENSE_SIZES,
        BFGS,
        each_thread_count=True,
        pairs=[("SciPy", "fastopt"), ("naive NumPy", "fastopt")],
    ),
    "codes": Group(
        "Sparse coding of rows of 64 numbers, 256 atoms",
        CODES_WORKS,
        ROWS,
        CODES,
        each_thread_count=True,
        pairs=[("scikit-learn", "fastopt")],
    ),
    "thinc": Group(
        "thinc's Adam with clipping, L2 and averages, called for each array",
        UPDATE_OF_THINC,
        SPACY_SETS,
        THINC,
        each_thread_count=True,
        pairs=[("thinc", "fastopt"), ("fastopt", "fastopt, collected")],
    ),
    "spacy": Group(
        "A run of spacy train: 50 updates of 16 texts, evaluated five times",
        RUNS,
        {"spacy train": ArraySet([])},
        SPACY_TRAIN,
        pairs=[("thinc", "fastopt")],
    ),
    "distributed": Group(
        "Adam on several ranks: a step, gradients exchanged",
        RULES["adam"],
        distributed.SETS,
        dict.fromkeys(distributed.CONTENDERS),
        pairs=distributed.PAIRS,
        on_ranks=True,
    ),
    "distributed-model": Group(
        "Adam on several ranks: the cost model against measurements",
        RULES["adam"],
        distributed.SETS,
        dict.fromkeys(distributed.MODEL),
        pairs=distributed.PAIRS_OF_MODEL,
        on_ranks=True,
    ),
    "distributed-overlap": Group(
        "Adam on several ranks: a backward pass and a step",
        RULES["adam"],
        distributed.NETWORKS,
        dict.fromkeys(distributed.OVERLAP),
        pairs=distributed.PAIRS_OF_OVERLAP,
        on_ranks=True,
    ),
    "distributed-memory": Group(
        "Adam on several ranks: megabytes",
        RULES["adam"],
        distributed.SETS,
        dict.fromkeys(distributed.MEMORY),
        on_ranks=True,
    ),
    "cuda": Group("Adam on a GPU", RULES["adam"], ARRAYS | GIGA, CUDA, gpu=True),
    "cuda-clipped": Group(
        "AdamW with clipping by the global norm, on a GPU", RULES["clipped"], ARRAYS | GIGA, CUDA, gpu=True
    ),
}
