"""The steps of a Dockerfile without an engine: read, and done in folders of this machine.

A stage is a folder. Its Debian is this machine's, to read alone; its /usr/local holds the Python
that the tests run in, with pip, where the official images have theirs. RUN is a shell that has the
folder for its root and the environment of the stage, and nothing else; COPY copies. It takes root,
and Linux, to change the root of a process: see `why_not`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"  # of the official images
_NO_PYTHON = shutil.ignore_patterns("site-packages", "test", "config-*", "idlelib", "tkinter")
_NETWORK = ("/etc/ssl", "/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/root/.config/pip")
_CACHE = re.compile(r"--mount=type=cache,target=(\S+)")
_PASSED_ON = ("PIP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Step:
    word: str
    text: str

    @property
    def arguments(self) -> list[str]:
        """Its flags and words, with quotes taken off."""
        return shlex.split(self.text)


@dataclass
class Stage:
    """What a stage has come to: the *root* folder, and what is told to who runs it."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    workdir: str = "/"
    user: str = "0:0"
    told: dict[str, str] = field(default_factory=dict)

    @property
    def local(self) -> Path:
        """Its /usr/local, which lies elsewhere, since its /usr is this machine's."""
        return self.root.with_name(f"{self.root.name}.local")


def why_not() -> str:
    """Why no stage can be entered here, or an empty text."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root, on Linux, may change the root of a process"
    unshare = ["unshare", "--mount", "--pid", "--fork", "true"]
    is_allowed = subprocess.run(unshare, capture_output=True, check=False).returncode == 0
    return "" if is_allowed else "this machine lets nobody mount anything"


def read(path: Path) -> list[Step]:
    """The steps in order, comments and the ends of lines taken out."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [Step(*line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]


def build(dockerfile: Path, folder: Path) -> Stage:
    """Do the steps of *dockerfile* on what lies beside it; return the last stage."""
    builder = _Builder(dockerfile.parent, folder)
    for step in read(dockerfile):
        builder.do(step)
    return builder.stage


def command(
    stage: Stage,
    arguments: Iterable[str],
    *,
    env: Mapping[str, str] | None = None,
    user: str = "",
    read_only: bool = True,
    shared: Mapping[str, str] | None = None,
) -> list[str]:
    """How to run *arguments* in *stage*, as the first process there, with *env* on top of its own.

    *shared* are places of this machine by where they are to be found there.
    """
    root = str(stage.root)
    binds = {root: root, f"{root}/usr": "/usr", f"{root}/usr/local": str(stage.local)}
    binds |= {f"{root}{there}": here for there, here in (shared or {}).items()}
    binds |= {f"{root}{place}": place for place in _NETWORK if Path(place).exists()}
    writable = {f"{root}{there}" for there in shared or {}}
    writable |= set() if read_only else {root, f"{root}/usr/local"}
    lines = [_bind(here, there, writable) for there, here in binds.items()]
    lines += [f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc"]
    told = [f"{name}={value}" for name, value in {**stage.env, **(env or {})}.items()]
    entered = ["chroot", f"--userspec={user or stage.user}", root, "env", "-i", *told, *arguments]
    script = "\n".join(["set -e", *lines, f"exec {shlex.join(entered)}"])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]


def _bind(here: str, there: str, writable: set[str]) -> str:
    bound = f"mount --bind {shlex.quote(here)} {shlex.quote(there)}"
    if there in writable:
        return bound
    return f"{bound} && mount -o remount,bind,ro {shlex.quote(there)}"


class _Builder:
    def __init__(self, context: Path, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._stages: dict[str, Stage] = {}
        self._args: dict[str, str] = {}
        self._passed_on = {
            name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)
        }
        self.stage = Stage(folder)

    def do(self, step: Step) -> None:
        doing = {
            "FROM": self._from, "ARG": self._arg, "ENV": self._env, "WORKDIR": self._workdir,
            "COPY": self._copy, "RUN": self._run, "USER": self._user,
        }  # fmt: skip
        tell = {"LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
        if step.word in tell:
            self.stage.told[step.word] = step.text
        else:
            doing[step.word](step)

    def _from(self, step: Step) -> None:
        source, name = step.arguments[0], step.arguments[-1]
        root = self._folder / f"stage{len(self._stages)}"
        if source in self._stages:
            self.stage = _copy_of(self._stages[source], root)
        else:
            self.stage = Stage(root)
            _make_python(self.stage)
        self._stages[name if "AS" in step.arguments else str(root)] = self.stage
        self._args = {}

    def _arg(self, step: Step) -> None:
        self._args |= dict(each.split("=", 1) for each in step.arguments)

    def _env(self, step: Step) -> None:
        for each in step.arguments:
            name, value = each.split("=", 1)
            self.stage.env[name] = value.replace("$PATH", self.stage.env["PATH"])

    def _workdir(self, step: Step) -> None:
        self.stage.workdir = step.text
        self._place(step.text).mkdir(parents=True, exist_ok=True)

    def _user(self, step: Step) -> None:
        self.stage.user = step.text

    def _copy(self, step: Step) -> None:
        origin, *sources, target = ["", *step.arguments]
        if sources[0].startswith("--from="):
            origin, *sources = sources
        for source in sources:
            place = self._place(f"{target}{source}" if target.endswith("/") else target)
            if origin:
                _link(self._stages[origin.removeprefix("--from=")].root / source.lstrip("/"), place)
            else:
                self._copy_from_context(source, place)

    def _copy_from_context(self, source: str, place: Path) -> None:
        ignored, found = self._ignored(source), self._context / source
        if found.is_dir():
            shutil.copytree(found, place, ignore=shutil.ignore_patterns(*ignored))
        else:
            shutil.copy2(found, place)

    def _ignored(self, source: str) -> list[str]:
        """The names that are left out below *source*, which the build has to see."""
        lines = (self._context / ".dockerignore").read_text().splitlines()
        assert f"!{source}" in lines, f"the build does not see {source}"
        return [line.removeprefix("**/") for line in lines if line.startswith("**/")]

    def _place(self, path: str) -> Path:
        return self.stage.root / str(Path(self.stage.workdir, path)).lstrip("/")

    def _run(self, step: Step) -> None:
        caches = {each[1]: each[1] for each in _CACHE.finditer(step.text)}
        for cache in caches:
            for place in (self._place(cache), Path(cache)):
                place.mkdir(parents=True, exist_ok=True)
        script = f"cd {self.stage.workdir} || exit\n{_CACHE.sub('', step.text)}"
        env = {"HOME": "/root", **self._args, **self._passed_on}
        entered = command(
            self.stage, ["sh", "-c", script], env=env, read_only=False, shared=caches
        )  # fmt: skip
        ran = subprocess.run(entered, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{script}\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}"


def _copy_of(stage: Stage, root: Path) -> Stage:
    copied = replace(stage, root=root, env=dict(stage.env), told={})
    _link(stage.root, copied.root)
    _link(stage.local, copied.local)
    return copied


def _link(origin: Path, place: Path) -> None:
    """As good as a copy, since nothing is changed in place, and the cheaper."""
    shutil.copytree(origin, place, symlinks=True, copy_function=os.link)


def _make_python(stage: Stage) -> None:
    """A root with the Python of the tests under /usr/local, and pip, as in the official images."""
    root = stage.root
    for name in ("usr", "etc", "dev", "proc", "opt", "root", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for place in filter(os.path.exists, _NETWORK):
        mounted = root / place.lstrip("/")
        mounted.parent.mkdir(parents=True, exist_ok=True)
        mounted.mkdir() if Path(place).is_dir() else mounted.touch()
    _copy_python(stage.local)
    (root / "etc" / "ld.so.conf").write_text("/usr/local/lib\n")
    subprocess.run(command(stage, ["ldconfig"], read_only=False), check=True)


def _copy_python(local: Path) -> None:
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = local / "lib" / version
    shutil.copytree(base / "lib" / version, library, symlinks=True, ignore=_NO_PYTHON)
    for shared in base.glob("lib/libpython3*.so*"):
        shutil.copy2(shared, local / "lib", follow_symlinks=False)
    (local / "bin").mkdir()
    shutil.copy2(base / "bin" / version, local / "bin")
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to(version)
    for name in ("pip", "setuptools"):
        copied = base / "lib" / version / "site-packages" / name
        shutil.copytree(copied, library / "site-packages" / name)
    pip = local / "bin" / "pip"
    pip.write_text(
        "#!/usr/local/bin/python\nfrom pip._internal.cli.main import main\nexit(main())\n"
    )
    pip.chmod(0o755)
