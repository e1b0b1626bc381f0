"""Python processes that have torch and ESPnet imported when they begin.

A recipe starts dozens of commands, and each would import ESPnet again, which takes
longer than what it does with so little data. So one process imports what is not ours,
and every further one is its fork, with arguments, folder, environment, files and limits
of its own; our modules are imported there as always. Where CTCKD_COLD_TESTS is set the
interpreter itself is started instead.
"""

import atexit
import contextlib
import gc
import json
import os
import resource
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any, Dict, List, NoReturn

LIBRARIES = (
    "torch",
    "torchaudio",
    "kaldiio",
    "soundfile",
    "sentencepiece",
    "jiwer",
    "jinja2",
    "espnet2.tasks.asr",
    "espnet2.bin.asr_train",
    "espnet2.bin.asr_inference",
    "espnet2.bin.tokenize_text",
)

# It stands in for python3, and takes what the recipes give to that: -m, -c, a script.
CLIENT = """#!{python} -IS
import json, os, resource, signal, socket, sys
if len(sys.argv) < 2 or sys.argv[1].startswith("-") and sys.argv[1] not in ("-m", "-c"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"."], [0, 1, 2])
request = dict(argv=sys.argv[1:], folder=os.getcwd(), env=dict(os.environ))
request["limit"] = resource.getrlimit(resource.RLIMIT_FSIZE)
connection.sendall(json.dumps(request).encode() + b"\\n")
answers = connection.makefile()
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@cache
def python() -> str:
    """The path of a python3 that starts warm processes, the only file of its folder."""
    if os.environ.get("CTCKD_COLD_TESTS"):
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    address = str(folder / "socket")
    server = subprocess.Popen(
        [sys.executable, "-u", __file__, address],
        stdin=subprocess.PIPE,  # it ends with this one
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "UTF-8"},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    # ESPnet prints what it misses of optional packages.
    assert b"ready\n" in iter(server.stdout.readline, b""), "see its standard error"
    client = folder / "bin" / "python3"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    atexit.register(server.stdin.close)
    return str(client)


def serve(address: str) -> None:
    """Fork for every connection, until standard input ends."""
    for name in LIBRARIES:
        __import__(name)
    gc.collect()
    gc.freeze()  # what is shared is not copied for counting
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready")
    while True:
        ready, _, _ = select.select([listener, 0], [], [], 1.0)
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    break
            except ChildProcessError:
                break
        if 0 in ready:
            return
        if not ready:
            continue
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return attend(connection)
        connection.close()


def attend(connection: socket.socket) -> None:
    """Run what is asked for in a fork, and tell its pid and its status."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as lines:
        request = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        return execute(request, files)
    for file in files:
        os.close(file)
    connection.sendall(f"{pid}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def execute(request: Dict[str, Any], files: List[int]) -> NoReturn:
    """Become the process that is asked for."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(request["limit"]))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    status = 0
    try:
        run(*request["argv"])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    # Not as Python ends: clearing all that was imported would copy it first.
    os._exit(status)


def run(first: str, *rest: str) -> None:
    """Do what python does with a command line of -m, -c or a script."""
    if first == "-m":
        sys.argv, sys.path[0] = list(rest), os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
