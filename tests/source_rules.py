"""What no source of the project may do: calls that Windows or macOS lack, and calls that run code of a file.

    for finding in find(Path("utils/ranks/spawn.py")):
        print(finding)                              # utils/ranks/spawn.py:12 os.fork: Windows has none

Read with `ast`, so what stands in comments and docstrings does not count. A call that another system lacks is fine
where the source asks for the system first: inside `if sys.platform ...`, `os.name`, `hasattr(...)`, or after such an
`if` that returns.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
NO_SOURCES = {"outputs", "runs", "tests", "node_modules", "__pycache__"}

ONE_SYSTEMS_MODULES = set(
    "fcntl resource pwd grp spwd crypt nis termios tty pty syslog posix readline curses msvcrt winreg winsound _winapi "
    "ossaudiodev".split())
# Of `os`; what Windows has under other conditions (links need rights there, `kill` ends at once) is asked for too.
ONE_SYSTEMS_CALLS = {
    "os": set(
        "fork forkpty kill killpg getuid geteuid getgid getegid getgroups getpgid getpgrp getsid setsid setuid setgid "
        "setpgid setpriority getpriority nice uname getloadavg sched_getaffinity sched_setaffinity sched_yield mkfifo "
        "mknod "
        "chown lchown fchown fchmod chroot statvfs fstatvfs sysconf confstr wait wait3 wait4 waitid posix_spawn "
        "posix_fallocate posix_fadvise pread pwrite sendfile link symlink readlink startfile ctermid sync openpty "
        "memfd_create eventfd pidfd_open getresuid getrandom O_DIRECT O_SYNC O_NOFOLLOW SCHED_OTHER".split()),
    "time": {"tzset", "clock_gettime", "clock_settime", "pthread_getcpuclockid"},
    "select": {"poll", "epoll", "kqueue"},
    "socket": {"AF_UNIX", "SO_REUSEPORT", "socketpair", "SO_REUSEADDR"},
    "signal": set("alarm setitimer pause pthread_kill pthread_sigmask sigwait sigtimedwait siginterrupt".split()),
}
SIGNALS_OF_ALL = {"SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV", "SIG_IGN", "SIG_DFL"}
ONE_SYSTEMS_PLACES = ("/proc", "/dev/", "/tmp", "/etc/", "/usr/", "/var/", "/home/", "/opt/", "/sys/", "/run/", "/mnt/")
QUESTIONS = {"sys.platform", "os.name", "platform.system", "hasattr"}

RUN_CODE = {
    "eval", "exec", "compile", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads",
    "shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pd.read_pickle",
    "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "tempfile.mktemp",
    "torch.hub.load", "torch.jit.load",
}
# A keyword that a call must have, with its value.
MUST_SAY = {
    "torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
}
OTHER_OPENS = {"os", "Image", "archive", "webbrowser", "zipfile", "tarfile", "gzip"}  # `X.open` that opens no text


class Finding(NamedTuple):
    """A place in a source, and what is wrong there; `what` without its reason is what an allow-list names."""

    path: str
    line: int
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.what}: {self.reason}"


def sources() -> list[Path]:
    """All sources of the project but its tests."""
    found = [path for path in ROOT.rglob("*.py") if not NO_SOURCES & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


def find(path: Path) -> list[Finding]:
    """All findings in a source."""
    return find_in(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())


def find_in(source: str, name: str) -> list[Finding]:
    """All findings in the text of a source called `name`."""
    tree = ast.parse(source)
    documentation = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    return [Finding(name, line, what, reason) for line, what, reason in _walk(tree, False, documentation)]


def _walk(node: ast.AST, asked: bool, documentation: set[int]) -> Iterator[tuple[int, str, str]]:
    """Findings at `node` and below; asked: the source has asked for the system before."""
    if id(node) in documentation and isinstance(node, ast.Constant):
        return
    yield from ((node.lineno, *one) for one in _unsafe(node))
    if not asked:
        yield from ((node.lineno, *one) for one in _of_one_system(node))
    if isinstance(node, (ast.If, ast.IfExp, ast.BoolOp)):
        asked = asked or _asks(node.test if not isinstance(node, ast.BoolOp) else node)
    for _, value in ast.iter_fields(node):
        if isinstance(value, list):
            below = asked
            for one in value:
                if isinstance(one, ast.AST):
                    yield from _walk(one, below, documentation)
                    below = below or (isinstance(one, ast.If) and _asks(one.test) and _leaves(one.body))
        elif isinstance(value, ast.AST):
            yield from _walk(value, asked, documentation)


def _asks(test: ast.AST) -> bool:
    return any(_dotted(one) in QUESTIONS for one in ast.walk(test) if isinstance(one, (ast.Attribute, ast.Name)))


def _leaves(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def _of_one_system(node: ast.AST) -> Iterator[tuple[str, str]]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    for module in modules:
        if module.split(".")[0] in ONE_SYSTEMS_MODULES:
            yield f"import {module}", "not every system has this module"
    if isinstance(node, ast.ImportFrom) and node.module in ONE_SYSTEMS_CALLS:
        for alias in node.names:
            if alias.name in ONE_SYSTEMS_CALLS[node.module]:
                yield f"{node.module}.{alias.name}", "not every system has it"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = f"{node.value.id}.{node.attr}"
        if node.attr in ONE_SYSTEMS_CALLS.get(node.value.id, ()):
            yield name, "not every system has it, or means another thing by it"
        if node.value.id == "signal" and node.attr.startswith("SIG") and node.attr not in SIGNALS_OF_ALL:
            yield name, "not every system has this signal"
        if name == "os.rename":
            yield name, "fails on Windows where the target exists; os.replace does not"
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(ONE_SYSTEMS_PLACES):
        yield repr(node.value[:40]), "a place of one system; tempfile and Path.home() know this one's"
    if isinstance(node, ast.Call):
        yield from start_method(node)
        yield from _text_of_no_encoding(node, _dotted(node.func))


def start_method(node: ast.Call) -> Iterator[tuple[str, str]]:
    """A call that starts processes otherwise than by spawn, the only way that all systems have."""
    name, said = _dotted(node.func), {keyword.arg for keyword in node.keywords}
    last = name.split(".")[-1]
    for keyword in node.keywords:
        if keyword.arg == "start_method" and getattr(keyword.value, "value", None) != "spawn":
            yield f"start_method={ast.unparse(keyword.value)}", "Windows and macOS start processes by spawn"
    if last in ("get_context", "set_start_method"):
        methods = [one.value for one in node.args if isinstance(one, ast.Constant)]
        if methods != ["spawn"]:
            yield f"{last}({', '.join(map(repr, methods))})", "Windows and macOS start processes by spawn"
    if last == "ProcessPoolExecutor" and "mp_context" not in said and len(node.args) < 2 and None not in said:
        yield last, "forks on Linux and spawns elsewhere; give a context of spawn"
    if name in ("multiprocessing.Process", "multiprocessing.Pool", "mp.Process", "mp.Pool", "Pool"):
        yield name, "forks on Linux and spawns elsewhere; use multiprocessing.get_context('spawn')"


def _unsafe(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.ExceptHandler):
        names = {one.id for one in ast.walk(node.type) if isinstance(one, ast.Name)} if node.type else set()
        if node.type is None or "BaseException" in names and not _raises(node):
            yield "except", "without a kind it also swallows Ctrl-C"
        if all(isinstance(one, ast.Pass) or _is_ellipsis(one) for one in node.body):
            yield "except ...: pass", "an error that is not spoken of"
    if isinstance(node, ast.Call):
        yield from _unsafe_call(node, _dotted(node.func))


def _raises(node: ast.ExceptHandler) -> bool:
    """Whether a handler passes on what it caught, or ends the process."""
    calls = {_dotted(one.func).split(".")[-1] for one in ast.walk(node) if isinstance(one, ast.Call)}
    return any(isinstance(one, ast.Raise) for one in ast.walk(node)) or bool(calls & {"_leave", "_exit"})


def _is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is Ellipsis


def _unsafe_call(node: ast.Call, name: str) -> Iterator[tuple[str, str]]:
    said = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
    if name in RUN_CODE:
        yield name, "runs what a file or a text says"
    if said.get("shell") is True:
        yield "shell=True", "runs what a text says, and each system has another shell"
    if name in MUST_SAY:
        keyword, value = MUST_SAY[name]
        if said.get(keyword) is not value:
            yield name, f"must say {keyword}={value}"
    if said.get("weights_only", True) is not True or said.get("allow_pickle", False) is not False:
        yield name, "may run code of the file"


def _text_of_no_encoding(node: ast.Call, name: str) -> Iterator[tuple[str, str]]:
    """A file read or written as text in whatever encoding the system has; Windows has another one."""
    last, owner = name.split(".")[-1], name.split(".")[0]
    if last in ("read_text", "write_text") and "encoding" not in {one.arg for one in node.keywords}:
        positional = {"read_text": 1, "write_text": 2}[last]
        if len(node.args) < positional:
            yield last, "without an encoding Windows takes its own"
    if last == "open" and owner not in OTHER_OPENS and "encoding" not in {one.arg for one in node.keywords}:
        modes = node.args[1:2] if name == "open" else node.args[:1]
        modes += [one.value for one in node.keywords if one.arg == "mode"]
        mode = modes[0].value if modes and isinstance(modes[0], ast.Constant) else "r"
        if isinstance(mode, str) and "b" not in mode and len(mode) <= 3:
            yield "open", "of text without an encoding: Windows takes its own"
