"""Measured rows as Markdown tables and as pictures."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from statistics import median

from bench.cuda import gpu
from bench.groups import Group
from bench.harness import Row, cores, pair_name

PACKAGES = (
    "fastopt",
    "numpy",
    "numba-cuda",
    "torch",
    "deepspeed",
    "jax",
    "jaxlib",
    "optax",
    "scipy",
    "scikit-learn",
    "thinc",
    "spacy",
)
NOTES = """\
Each cell: microseconds of one step (percent of `limit`), medians over interleaved rounds; nanoseconds per element \
where the title says so. `limit` is a C loop with the same \
reads and writes and next to no arithmetic. All ratios are medians of the ratios within a round: the machine may be \
shared and its speed may change, which the ratios survive and the times don't. *Lead*: the best peer's time divided by \
fastopt's. *Fallback / naive*: naive NumPy's time divided by that of fastopt's NumPy fallback. *Noise*: half the \
distance of the quartiles of the first column, in percent; above 10, something else was running: such a row is \
measured up to three times, and the quietest is shown. Below each table are its date and, in newer ones, the machine's \
load average at its end. Above the number of cores other work ran: compare ratios of one thread only. `--quick` takes \
fewer rounds, and no arrays above a million elements. The list above describes the last run; earlier tables keep their \
rows.
"""


def machine(threads: int) -> str:
    """The machine and the versions, as a Markdown list."""
    facts = {
        "date": datetime.date.today().isoformat(),
        "CPU": f"{processor()}, {cores()} cores",
        "memory": memory(),
        "GPU": gpu(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "huge pages": first_line(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "compiler": compiler(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions(*PACKAGES),
        "backend": backend(),
        "threads": str(threads),
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items() if fact)


def processor() -> str:
    """The CPU's model name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def memory() -> str:
    """The machine's memory, where the system tells."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return ""
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def load() -> str:
    """How busy the machine was in the last minutes, where the system tells; what was measured is part of it."""
    if not hasattr(os, "getloadavg"):
        return ""
    return f", with a load average of {os.getloadavg()[1]:.0f} at the end"


def first_line(path: Path) -> str:
    return path.read_text().splitlines()[0] if path.exists() else ""


def compiler() -> str:
    """What the C compiler calls itself."""
    try:
        return subprocess.run([os.environ.get("CC", "cc"), "--version"], capture_output=True, text=True).stdout.split(
            "\n"
        )[0]
    except OSError:
        return ""


def versions(*names: str) -> str:
    """The installed ones of these distributions."""
    found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return ", ".join(f"{name} {found[name]}" for name in names if name in found)


def backend() -> str:
    """Which of fastopt's backends and instruction sets ran."""
    try:
        import fastopt

        info = fastopt.info()
        return f"{info['backend']}, {info['isa']}, {info['threads']} threads"
    except (ImportError, RuntimeError) as error:
        return str(error)


def table(group: Group, rows: list[Row]) -> str:
    """One group's rows, and beneath them what was left out and why."""
    names = contenders(group, rows)
    has_fallback = any(row.over_naive for row in rows)
    pairs = [name for name in map(pair_name, group.pairs) if any(name in row.ratios for row in rows)]
    header = ["arrays", *names, *pairs, "lead", *["fallback / naive"] * has_fallback, "best peer", "noise"]
    lines = [
        [
            row.label,
            *(cell(group, row, name) for name in names),
            *(times(row.ratios.get(name)) for name in pairs),
            times(row.lead),
            *[times(row.over_naive)] * has_fallback,
            row.best_peer,
            f"{row.spread:.0f} %",
        ]
        for row in rows
    ]
    if pairs:
        medians = (median(row.ratios[name] for row in rows if name in row.ratios) for name in pairs)
        rest = [""] * (len(header) - 1 - len(names) - len(pairs))
        lines.append(["median", *["–"] * len(names), *map(times, medians), *rest])
    return markdown(header, lines) + left_out(rows)


def contenders(group: Group, rows: list[Row]) -> list[str]:
    """Those that took part."""
    return [name for name in group.contenders if any(name in row.micros for row in rows)]


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def cell(group: Group, row: Row, name: str) -> str:
    """A time and its percentage of the limit."""
    if name not in row.micros:
        return "–"
    time = row.micros[name] * (1000 / row.elements if group.per_element else 1)
    shown = f"{time:,.0f}" if time >= 100 else f"{time:.1f}" if time >= 10 else f"{time:.2f}"
    if name == "limit" or name not in row.percent:
        return shown
    percent = row.percent[name]
    return f"{shown} ({percent:.0f})" if percent >= 10 else f"{shown} ({percent:.1f})"


def times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}x"


def left_out(rows: list[Row]) -> str:
    """Contenders that did not take part, each reason once."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for name, reason in row.skipped.items():
            reasons.setdefault(f"{name}: {reason}", []).append(row.label)
    if not reasons:
        return ""
    lines = (
        f"- {text}" + ("" if len(labels) == len(rows) else f" ({'; '.join(labels)})")
        for text, labels in reasons.items()
    )
    return "\nLeft out:\n\n" + "\n".join(lines) + "\n"
