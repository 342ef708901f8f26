"""python -m bench: measure everything, interleaved, and write the tables."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

from bench.threads import set_threads

# bench's other modules import NumPy, and must wait until the numbers of threads are set: hence the late imports.


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Time fastopt against its peers.")
    parser.add_argument("--quick", action="store_true", help="arrays up to a million elements, and fewer rounds")
    parser.add_argument("--group", action="append", help="only this one, beside those in the report (may be repeated)")
    parser.add_argument("--only", action="append", help="rows whose labels contain this (may be repeated)")
    parser.add_argument("--threads", type=int, default=2, help="for every contender (default: 2)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.md"), help="the report")
    parser.add_argument("--plot", action="store_true", help="draw each table with a limit as a PNG")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # one group's rows as JSON, for a parent process
    return parser.parse_args()


def main() -> None:
    """Measure the chosen groups one after the other."""
    args = arguments()
    set_threads(args.threads)
    from bench.distributed import rows_on_ranks
    from bench.groups import GROUPS
    from bench.harness import Row, cores, measure

    chosen = args.group or [*(name for name, group in GROUPS.items() if not (group.gpu or group.on_ranks)), "install"]
    if unknown := set(chosen) - {*GROUPS, "install"}:
        sys.exit(f"no such group: {', '.join(unknown)}; there are: {', '.join(GROUPS)}, install")
    if args.rows:
        rows = measure(GROUPS[chosen[0]], args.quick, args.threads, args.only)
        args.rows.write_text(json.dumps([asdict(row) for row in rows]))
        return

    from bench import pictures, report

    args.out.parent.mkdir(parents=True, exist_ok=True)
    sections = sections_of(args.out) if args.group else {}
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        if name == "install":
            part = install_tables(args.quick)
        else:
            group = GROUPS[name]
            if group.on_ranks:
                rows = [Row(**fields) for fields in rows_on_ranks(name, args.quick, cores(), args.only)]
            elif group.each_thread_count:
                rows = list(each_thread_count(name, args))
            else:
                rows = list(measure(group, args.quick, args.threads, args.only))
            part = f"## {group.title}\n\n{report.table(group, rows)}"
            if args.plot and "limit" in group.contenders:
                picture = args.out.with_name(f"{args.out.stem}-{name}.png")
                pictures.draw(group, rows, picture)
                part += f"\n![{group.title}]({picture.name})\n"
        part += f"\nMeasured on {date.today().isoformat()}{' by --quick' * args.quick}{report.load()}.\n"
        print(part, flush=True)
        sections[part.partition("\n")[0]] = part
        head = f"# Benchmark results\n\n{report.machine(args.threads)}\n\n{report.NOTES}"
        args.out.write_text("\n".join([head, *sections.values()]), encoding="utf-8")  # a run may be cut short
    print(f"written to {args.out}", file=sys.stderr)


def sections_of(file: Path) -> dict[str, str]:
    """The sections of an earlier report, by their titles; those of other groups are kept."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    sections = [f"## {section}".rstrip() + "\n" for section in text.split("\n## ")[1:]]
    return {section.partition("\n")[0]: section for section in sections}


def each_thread_count(name: str, args: argparse.Namespace) -> Iterator:
    """The group's rows for 1, 2, 4, ... threads; a process for each, as some peers fix their number at import."""
    from bench.harness import Row, cores

    for threads in sorted({1, 2, 4, 8, 16, 32, 64, cores()}):
        if threads > cores():
            break
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.json"
            command = [sys.executable, "-m", "bench", "--group", name, "--threads", str(threads), "--rows", str(file)]
            command += ["--quick"] * args.quick + [f"--only={each}" for each in args.only or []]
            subprocess.run(command, cwd=Path(__file__).parent.parent, check=True)
            rows = [Row(**fields) for fields in json.loads(file.read_text())]
        for row in rows:
            row.label += f"; {threads} thread{'s' * (threads > 1)}"
            yield row


def install_tables(quick: bool) -> str:
    """Import times and sizes."""
    from bench import install
    from bench.report import markdown

    names = install.importable()
    seconds = install.import_times(names, rounds=3 if quick else 11)
    lines = [[name, f"{1e3 * seconds[name]:.0f}", install.installed_size(name)] for name in names]
    try:
        wheel = f"{install.wheel_size() / 1e3:.0f} KB"
    except (OSError, subprocess.CalledProcessError) as error:
        wheel = f"could not be built here ({error})"
    header = ["import", "ms above numpy (numpy: above Python)", "installed"]
    return f"## Import and size\n\n{markdown(header, lines)}\nfastopt's wheel: {wheel}\n"


if __name__ == "__main__":
    main()
