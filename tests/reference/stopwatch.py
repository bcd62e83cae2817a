"""Answers the runner's lines (xtask/src/bench/child.rs): a case by the seconds of one run, `memory` and `first memory` by bytes.

Imported before torch: the process starts anew with glibc's allocator told to keep its memory. PyTorch's buffers are mapped anew otherwise,
which costs up to a third.
"""
import os, sys, time
KEEP = dict(MALLOC_MMAP_THRESHOLD_="68719476736", MALLOC_TRIM_THRESHOLD_="68719476736", MALLOC_TOP_PAD_="268435456", HF_HUB_OFFLINE="1")
if any(os.environ.get(key) != value for key, value in KEEP.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP})
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def threads():
    """Of `--threads N`; all cores without."""
    at = sys.argv.index("--threads") if "--threads" in sys.argv else None
    return int(sys.argv[at + 1]) if at else os.cpu_count()


def peak_memory():
    """`VmHWM` of Linux; zero elsewhere."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return 0


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def serve(make, versions, time=seconds):
    """Answers until the input ends; `make(line)` gives what runs a case once, `time` its seconds."""
    current, run, first_memory = None, None, 0
    for line in map(str.strip, sys.stdin):
        if line == "versions":
            answer = versions
        elif line == "memory":
            answer = peak_memory()
        elif line == "first memory":
            answer = first_memory
        else:
            if line != current:
                run = None
                run, current = make(line), line
                run()
                first_memory = peak_memory()
            answer = time(run)
        print(answer, flush=True)
