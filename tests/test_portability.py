"""No source calls what Windows or macOS lack, or what runs code of a file; names with spaces and umlauts work."""

import ast
import json
import subprocess
import sys

import numpy as np
import pytest

import predict
from tests.csv_fixture import write_tiny_dataset
from tests.source_rules import ROOT, find, find_in, sources, start_method
from tests.stage_script import run_main
from tests.tiny_checkpoint import write_tiny_checkpoint

# (file, what) that the rules would refuse, and why it is right there.
ALLOWED = {
    ("run.py", "read_text"): "hexadecimal digits, the same in every encoding",
    ("run.py", "write_text"): "hexadecimal digits, the same in every encoding",
    ("benchmarks/qca_accuracy.py", "ProcessPoolExecutor"):
        "its work is a function of a module and plain arguments, which each way of starting passes on",
}

# (file, what) in tests, and why nothing else will do.
FORKING_TESTS = {
    ("test_kills.py", "get_context('fork')"): "hundreds of kills, on Linux: a forked run starts in milliseconds",
    ("test_kills.py", "start_method='fork'"): "the same; tests/test_resume.py kills runs that were spawned",
}


def test_no_source_calls_what_another_system_lacks_or_what_runs_code():
    findings = [finding for path in sources() for finding in find(path)]
    refused = [str(finding) for finding in findings if (finding.path, finding.what) not in ALLOWED]
    assert not refused, "\n".join(refused)


def test_the_allow_list_has_nothing_that_is_gone():
    seen = {(finding.path, finding.what) for path in sources() for finding in find(path)}
    assert set(ALLOWED) <= seen, set(ALLOWED) - seen


def test_all_sources_are_looked_at():
    names = {path.relative_to(ROOT).as_posix() for path in sources()}
    assert {"predict.py", "data/cine.py", "utils/ranks/spawn.py", "phantom/case.py", "benchmarks/qca_speed.py"} <= names
    assert not any(name.startswith(("tests/", ".")) for name in names)


def test_tests_start_processes_by_spawn():
    for path in sorted((ROOT / "tests").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call)]
        found = [(call.lineno, what) for call in calls for what, _ in start_method(call)]
        assert not [(path.name, *one) for one in found if (path.name, one[1]) not in FORKING_TESTS]


BAD = {
    "import fcntl": "import fcntl", "from resource import getrusage": "import resource",
    "import os\nos.fork()": "os.fork",
    "os.kill(1, 9)": "os.kill", "from os import fork": "os.fork", "signal.signal(signal.SIGALRM, f)": "signal.SIGALRM",
    "signal.alarm(3)": "signal.alarm", "os.rename(a, b)": "os.rename", "open('/proc/meminfo', 'rb')": "'/proc/meminfo'",
    "path = '/tmp/x'": "'/tmp/x'", "open(path)": "open", "path.open('w')": "open", "open(path, mode='r')": "open",
    "path.read_text()": "read_text", "path.write_text(text)": "write_text",
    "multiprocessing.get_context('fork')": "get_context('fork')",
    "multiprocessing.Process(target=f)": "multiprocessing.Process",
    "ProcessPoolExecutor(2)": "ProcessPoolExecutor", "f(start_method='fork')": "start_method='fork'",
    "set_start_method('forkserver')": "set_start_method('forkserver')",
    "torch.load(path)": "torch.load", "torch.load(path, weights_only=False)": "torch.load", "np.load(path)": "np.load",
    "np.load(path, allow_pickle=True)": "np.load", "pickle.load(file)": "pickle.load", "eval(text)": "eval",
    "exec(text)": "exec", "yaml.load(text)": "yaml.load", "os.system('ls')": "os.system",
    "subprocess.run(text, shell=True)": "shell=True", "try:\n    f()\nexcept:\n    g()": "except",
    "try:\n    f()\nexcept ValueError:\n    pass": "except ...: pass",
    "try:\n    f()\nexcept OSError:\n    ...": "except ...: pass",
    "if f():\n    os.fork()": "os.fork", "if path.name:\n    os.fork()": "os.fork",
    "if sys.platform == 'linux':\n    f()\nos.fork()": "os.fork",
    "try:\n    f()\nexcept BaseException:\n    g()": "except",
}


@pytest.mark.parametrize("source", BAD)
def test_the_rules_see(source):
    assert BAD[source] in [finding.what for finding in find_in(source, "a.py")]


GOOD = (
    "if sys.platform != 'win32':\n    os.kill(1, 9)",
    "def f():\n    if sys.platform == 'win32':\n        return\n    os.fork()",
    "cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1", "open(path, 'rb')",
    "path.open('rb')", "open(path, encoding='utf-8')", "path.read_text(encoding='utf-8')",
    "path.write_text(text, 'utf-8')", "Image.open(file)",
    "torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)", "model.eval()", "os.replace(a, b)",
    "get_context('spawn')", "ProcessPoolExecutor(2, context)", "ProcessPoolExecutor(1, **fresh)", "signal.SIGINT",
    "'''/tmp is said in a docstring'''", "try:\n    f()\nexcept ValueError:\n    g()",
    "try:\n    f()\nexcept BaseException:\n    clean()\n    raise",
)


@pytest.mark.parametrize("source", GOOD)
def test_the_rules_let_pass(source):
    assert find_in(source, "a.py") == []


# ---- names

NAME = "Ängiö Daten (übung) & 日本"


def run_script(*command, spawned: bool = False) -> str:
    """What a script says; spawned: with processes started as on Windows and macOS. It must end well."""
    script, *given = map(str, command)
    program = [script]
    if spawned:  # of a loader's processes too, which Linux would fork
        module = script.removesuffix(".py")
        program = ["-c", "import multiprocessing, sys; multiprocessing.set_start_method('spawn'); "
                   f"import {module}; sys.argv[0] = {script!r}; sys.exit({module}.main())"]
    done = subprocess.run([sys.executable, *program, *given], capture_output=True, cwd=ROOT, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return done.stdout.decode("utf-8", "replace")


def test_a_picture_is_predicted_in_folders_with_spaces_and_umlauts(tmp_path):
    folder = tmp_path / NAME
    csv_path = write_tiny_dataset(folder / "Daten", patients=1, rows_per_patient=1, val_patients=0, size=64)
    cine = next((csv_path.parent / "cines").iterdir())
    cine = cine.rename(cine.with_name("Mückes Cine (2).npy"))
    checkpoint = write_tiny_checkpoint(folder / "Gewichte ß.pth")
    said, code = run_main(predict, cine, "--frame", 0, "--out", folder / "Ergebnis", "--checkpoint", checkpoint)
    assert code in (0, None), said
    written = [path.relative_to(folder).as_posix() for path in (folder / "Ergebnis").rglob("*") if path.is_file()]
    assert any("Mückes Cine (2)" in name for name in written), written
    for path in (folder / "Ergebnis").rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_from_a_phantom_to_a_prediction_in_folders_with_spaces_and_umlauts(tmp_path):
    folder = tmp_path / NAME
    data, run = folder / "Phäntom (1)", folder / "Läufe, alle"
    small = "--patients 4 --image-size 128 --frames 2 --workers 2".split()
    run_script("make_phantom_dataset.py", "--out", data, *small)
    assert (data / "dataset.csv").is_file()
    short = "--backbone sam3-tiny --epochs 1 --batch-size 4 --device cpu --num-workers 1 --world-size 2".split()
    where = ["--data-csv", data / "dataset.csv", "--checkpoint-dir", run]
    run_script("train_stage1_deepsa.py", *where, *short, spawned=True)
    best = run / "phase1_deepsa_best.pth"
    cine = next((data / "cines").rglob("*.npy"))
    assert np.lib.format.open_memmap(cine, mode="r").ndim >= 3
    run_script("predict.py", cine, "--out", folder / "Ergebnis ö", "--checkpoint", best)
    assert any((folder / "Ergebnis ö").rglob("*.png"))
