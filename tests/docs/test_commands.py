"""Every command that a page names exists, and is run by a test or listed here with the reason."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ndoo.cli.main import commands as ndoo
from ndoo.config import Settings
from ndoo.publish import source
from support.chart import helm
from support.commands import ROOT, Command, commands, inline, pages
from support.people import number
from support.service import Service

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
HERE = "tests/docs/test_commands.py"

# What a command begins with: the file that runs the same, and the words in it that do.
RUN = {
    r"make demo": ("tests/cli/test_demo.py", 'start("demo"'),
    r"make stack": ("tests/ops/test_stack.py", '"stack.py"'),
    r"make simulate": ("tests/simulator/test_simulator.py", "run_all("),
    r"make fuzz": ("tests/fuzz/test_fuzz.py", "mutated("),
    r"make licences": ("tests/assurance/test_supply.py", '"supply.py"'),
    r"make chart": ("tests/delivery/test_chart.py", "make chart"),
    r"make release": ("tests/delivery/conftest.py", "release.build("),
    r"\.venv/bin/python scripts/release\.py": ("tests/delivery/test_release.py", '"release.py"'),
    r"sha256sum --check": ("tests/delivery/test_release.py", '"sha256sum"'),
    r"make proto": ("tests/test_proto.py", '"generate_proto.py"'),
    r"make bench(?:-quick|-report)?": ("tests/test_benchmarks.py", '"benchmarks"'),
    r"make check": (".ci/run", "make check"),
    r"make bench-gate": (".ci/run", "make bench-gate"),
    r"make test": (".ci/run", "make test"),
    r"make help": (HERE, '"make", "help"'),
    r"make hooks": ("tests/test_scan.py", '"pre-commit"), "install"'),
    r"\.venv/bin/python -m benchmarks run": ("tests/test_benchmarks.py", '"-m", "benchmarks"'),
    r"\.venv/bin/python -m golden": ("tests/upgrades/test_golden.py", "make.make("),
    r"\.venv/bin/python -m fuzz --corpus": ("tests/fuzz/test_fuzz.py", "corpus.text_of("),
    r"\.venv/bin/python scripts/metrics_table\.py": ("tests/ops/test_metrics.py", "table.page("),
    r"\.venv/bin/python scripts/picture\.py": ("tests/docs/test_picture.py", "making.picture("),
    r"ndoo (?:COMMAND|serve) --help": ("tests/cli/test_console.py", '"--help"'),
    r"ndoo audit verify": ("tests/cli/test_audit.py", '"verify"'),
    r"ndoo check": ("tests/cli/test_check.py", '"check"'),
    r"ndoo load": ("tests/cli/test_load.py", '"load"'),
    r"ndoo record": ("tests/cli/test_recording.py", '"record"'),
    r"ndoo (?:serve|status|snapshot|verify)": (HERE, "README.md"),
    r"helm (?:lint|template)": (HERE, '"helm"'),
    r"openssl (?:genpkey|pkey)": (HERE, "docs/tls.md"),
    r"token=.*": ("tests/docs/test_pages.py", "docs/tutorial.md"),
}  # fmt: skip

RUN_WHOLE = {"docs/install.md": "tests/docs/test_install.py"}
"""Pages whose blocks are typed from the first to the last."""

NOT_RUN = {
    r"make (?:lock|audit)": "asks package indexes for what is newest",
    r"make mutants": "takes an hour; tests/test_mutants.py holds its patches to the tree",
    r"\.venv/bin/pytest": "runs this",
    r"git (?:checkout|push|tag)": "changes the reader's own repository",
    r"make image|docker (?:buildx|run)": "needs an engine; tests/delivery/ takes the same steps",
    r"make format": "changes the tree; `make check` runs the same and looks only",
    r"pip install": "fetches from an index; the tests install the same wheel and locks without one",
    r"\. \.venv/bin/activate|mkdir tutorial": "the reader's own shell, which the tests have",
    r"dotnet add|npm install|protoc": "tools and packages of the caller's language, from its index",
}  # fmt: skip


def test_there_is_something_to_look_at() -> None:
    assert len(commands()) > 100
    assert {"README.md", "docs/tutorial.md", "CONTRIBUTING.md"} <= {
        each.page for each in commands()
    }


def test_each_is_run_by_a_test_or_listed_with_the_reason() -> None:
    known = [*RUN, *NOT_RUN]
    rest = [each for each in commands() if not (each.in_block and each.page in RUN_WHOLE)]
    first = {each: next((it for it in known if _begins(it, each)), None) for each in rest}
    assert [str(each) for each, found in first.items() if found is None] == []
    assert sorted(set(known) - set(first.values())) == [], "no page names these any more"


def _begins(pattern: str, command: Command) -> bool:
    bare = re.sub(r"^(?:[A-Z_]+=\S+ +)+", "", command.text)
    return bool(re.match(rf"(?:{pattern})(?: |$)", bare))


@pytest.mark.parametrize("pattern", RUN)
def test_what_is_said_to_run_a_command_does(pattern: str) -> None:
    path, words = RUN[pattern]
    assert words in (ROOT / path).read_text("utf-8")


@pytest.mark.parametrize("page", RUN_WHOLE)
def test_what_is_said_to_run_a_page_does(page: str) -> None:
    assert f'"{page}"' in (ROOT / RUN_WHOLE[page]).read_text("utf-8")


def test_every_target_and_variable_of_make_is_there() -> None:
    helped = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = {line.split()[0] for line in helped.splitlines()}
    assert {"demo", "test", "help"} <= targets
    for each in commands():
        if each.words[0] == "make":
            for word in each.words[1:]:
                name, is_variable, _ = word.partition("=")
                assert name in targets or (is_variable and f"$({name})" in MAKEFILE), str(each)


def test_every_command_and_flag_of_ndoo_is_there() -> None:
    found = [each for each in commands() if each.words[0] == "ndoo" and "COMMAND" not in each.words]
    assert len(found) > 50
    for each in found:
        try:
            _parse(each.words[1:])
        except click.UsageError as error:
            raise AssertionError(f"{each}\n{error.format_message()}") from error


def _parse(words: list[str]) -> None:
    """Take *words* apart as the command would, without looking at what they name."""
    context = click.Context(ndoo, info_name="ndoo")
    command: click.Command = ndoo
    while isinstance(command, click.Group) and words:
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, info_name=name, parent=context)
    flags = [word for word in words if word != "…"]
    if flags and flags[-1].startswith("--") and _takes_a_value(command, context, flags[-1]):
        flags.append("VALUE")  # a sentence may name a flag alone
    command.make_parser(context).parse_args(flags)


def _takes_a_value(command: click.Command, context: click.Context, flag: str) -> bool:
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    return any(flag in each.opts and not each.is_flag for each in options)


def test_every_flag_named_alone_is_one_of_ours() -> None:
    ours = "\n".join(["--help", "--version", MAKEFILE, *_sources()])
    for page, text in pages().items():
        for line, content in inline(text):
            if flag := re.match(r"--[a-z][a-z-]+", content):
                assert re.search(rf"{flag[0]}\b", ours), f"{page}:{line}: {flag[0]}"


def _sources() -> Iterator[str]:
    for folder in ("src/ndoo", "benchmarks", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path.read_text("utf-8")


class Typist:
    """Somebody who types what a page says in *folder*, and the service that they start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service: Service | None = None

    def type(self, command: Command) -> None:
        """It must do what it says. FEED, HOST:PORT and a time of drawing are filled in."""
        now = dt.datetime.now(dt.UTC).isoformat()
        text = re.sub(r"\bFEED\b", "dir:./feed", command.text)
        text = re.sub(r"(?<=--drawn-at )\S+", now, text)
        typed = dataclasses.replace(command, text=text)
        if typed.words[:2] == ["ndoo", "serve"]:
            self._serve(typed)
        elif typed.words[0] == "ndoo":
            self._run(typed)
        else:
            subprocess.run(typed.words, cwd=self.folder, capture_output=True, check=True)

    def _serve(self, command: Command) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in command.variables.items():
                patch.setenv(name, value)
            self.service = Service("dir:./feed")

    def _run(self, command: Command) -> None:
        address = self.service.address if self.service else "HOST:PORT"
        words = [address if word == "HOST:PORT" else word for word in command.words[1:]]
        if words[0] in {"check", "status"} and address not in words:
            words += ["--target", address] if words[0] == "check" else [address]
        if command.reads:  # from a file that is open, which the runner has none of
            with Path(command.reads).open() as file:
                subprocess.run([sys.executable, "-m", "ndoo", *words], stdin=file, check=True)
        else:
            ran = CliRunner().invoke(ndoo, words, env=command.variables)
            assert ran.exit_code == 0, f"{command}\n{ran.output}"


@pytest.fixture
def typist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Typist]:
    """In a folder with what the pages suppose: lists of people, and a register in NDOO_FEED."""
    for name in [name for name in os.environ if name.startswith("NDOO_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    opted_out, new = [number(person) for person in range(200)], number(200)
    for name, rows in {
        "opted-out.dat": opted_out,
        "new.dat": [new],
        "extract.dat": [*opted_out, new],
        "cohort.csv": ["nhs_number", *opted_out, number(300)],
    }.items():
        Path(name).write_text("".join(f"{row}\n" for row in rows))
    typist = Typist(tmp_path)
    yield typist
    if typist.service:
        typist.service.kill()


def test_the_commands_of_the_readme_do_what_they_say(typist: Typist, monkeypatch) -> None:
    monkeypatch.setattr(source, "CLOCK_SKEW_MS", 0)  # the feed has begun this very second
    run = [each for each in _in_blocks("README.md") if each.words[0] == "ndoo"]
    assert len(run) > 8
    run.sort(key=lambda each: "suspend" in each.words)  # after which nothing is answered
    for command in run:
        if "--tls-key" not in command.words:  # tests/server/test_tls.py serves with certificates
            typist.type(command)
    assert Path("cleared.csv").read_text("ascii").split() == ["nhs_number", number(300)]


def test_the_commands_that_sign_do_what_they_say(typist: Typist, monkeypatch) -> None:
    monkeypatch.setenv("NDOO_FEED", "dir:./feed")
    run = _in_blocks("docs/tls.md")
    assert "openssl" in {each.words[0] for each in run}
    for command in run:
        typist.type(command)
    assert typist.service


@pytest.mark.parametrize(
    "command",
    [each for each in commands() if each.words[0] == "helm" and each.page not in RUN_WHOLE],
    ids=str,
)
def test_the_commands_of_helm_do_what_they_say(command: Command, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    helm(*command.words[1:])


def test_what_a_container_is_started_with_is_accepted() -> None:
    for each in commands():
        if each.words[:2] == ["docker", "run"]:
            given = [word for flag, word in pairwise(each.words) if flag in {"-e", "--env"}]
            environ = {"NDOO_FEED": "dir:feed", **dict(word.split("=", 1) for word in given)}
            assert Settings.from_env(environ), str(each)


def _in_blocks(page: str) -> list[Command]:
    return [each for each in commands() if each.page == page and each.in_block]
