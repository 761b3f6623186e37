"""`make fuzz`: the harnesses of tests/proto/ike/harnesses.py under atheris, which keeps octets that reach new code.

    fuzz.py SECONDS             every harness, each in a process of its own, for its share of so long
    fuzz.py HARNESS FILE        a finding once more, with its traceback; needs no atheris

build/fuzz/HARNESS has what was found so far: `corpus` is where the next run goes on, beside the recorded sessions;
`crash-…` or `timeout-…` is octets that fwd does not bear. Exit status 1: there is such a file. A finding becomes a test
of its own, with its reason, beside the others of that part.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/proto/ike"))
SHARES = {"codec": 0.15, "strangers": 0.25, "peer": 0.45, "insider": 0.15}
# An interpreter with everything loaded and instrumented has 250 MiB; keyd itself is to stay under 128.
OPTIONS = ["-max_len=2000", "-timeout=5", "-rss_limit_mb=512", "-malloc_limit_mb=64"]


def fuzz_all(seconds: float) -> int:
    """One line a harness; the exit status."""
    failed = 0
    for name, share in SHARES.items():
        directory = ROOT / "build/fuzz" / name
        corpus, log = directory / "corpus", directory / "log"
        corpus.mkdir(parents=True, exist_ok=True)
        _sow(name, corpus)
        argv = [sys.executable, __file__, "--one", name, f"-artifact_prefix={directory}/",
                f"-max_total_time={max(1, round(share * seconds))}", *OPTIONS, str(corpus)]  # fmt: skip
        with log.open("wb") as output:
            status = subprocess.run(argv, stdout=output, stderr=output, check=False).returncode
        printed = log.read_text(errors="replace")
        print(f"{name:10} {_summary(printed)}", flush=True)
        if status:
            failed = 1
            print("\n".join(printed.splitlines()[-40:]))
    return failed


def _sow(name: str, corpus: Path) -> None:
    from harnesses import seeds

    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)


def _summary(log: str) -> str:
    """How far it came, in libFuzzer's words."""
    last = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)", log, re.MULTILINE)
    return "{} inputs; reached: {} branches, {} features; kept: {}".format(*last[-1]) if last else "nothing was run"


def fuzz_one(name: str) -> None:
    """In a process of its own; does not return."""
    import atheris  # first of all: what is imported below is instrumented

    with atheris.instrument_imports(include=["fwd.proto.ike", "harnesses", "hostile"]):
        import harnesses

    atheris.Setup([sys.argv[0], *sys.argv[3:]], harnesses.HARNESSES[name])
    atheris.Fuzz()


def main() -> None:
    if sys.argv[1] == "--one":
        fuzz_one(sys.argv[2])
    elif len(sys.argv) == 3:
        from harnesses import HARNESSES

        HARNESSES[sys.argv[1]](Path(sys.argv[2]).read_bytes())
    else:
        sys.exit(fuzz_all(float(sys.argv[1])))


if __name__ == "__main__":
    main()
