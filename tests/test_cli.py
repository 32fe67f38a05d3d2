"""The command line: verdicts, exit codes, and what is said of bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from click.testing import Result
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from roundoff import __version__
from roundoff.cli import app, console

NET = '''
import time

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, input_dim, swapped=False):
        super().__init__()
        self.first, self.second = nn.Linear(input_dim, 16), nn.Linear(16, 16)
        self.act, self.swapped = nn.ELU(), swapped

    def forward(self, x):
        h = self.first(x)
        h = self.act(h) if not self.swapped else torch.relu(h)
        return self.second(h)


class ModelConv(nn.Module):
    def __init__(self, input_dim):
        super().__init__()
        self.first, self.second = nn.Conv2d(input_dim, 16, 1), nn.Conv2d(16, 16, 1)
        self.act = nn.ELU()

    def forward(self, x):
        x = x.unsqueeze(3).permute(0, 2, 1, 3)
        return self.second(self.act(self.first(x))).permute(0, 2, 1, 3).squeeze(3)


class Switch(nn.Module):
    """Gives other results in training mode."""

    def forward(self, x):
        return x * (2 if self.training else 1)


def double(x):
    return x * 2


def graded(x):
    return x * (2 if torch.is_grad_enabled() else 1)


def plus(x, y, scale=None):
    return x + y if scale is None else (x + y) * scale


calls = []


def unsteady(x):
    calls.append(1)
    return x + len(calls)


def chatty(x):
    print("hello from the model")
    return x * 2


def broken(x):
    raise ValueError("cannot do this")


def interrupted(x):
    raise KeyboardInterrupt


def slow(x):
    print("running", flush=True)
    time.sleep(60)
    return x


def nothing(x):
    return "no tensor"


class Half(nn.Linear):
    """A bias less than it should have."""

    def __init__(self):
        super().__init__(8, 4, bias=False)


class Whole(nn.Linear):
    def __init__(self):
        super().__init__(8, 4)
'''
PAIR = ["compare", "net.py:Model(24)", "net.py:ModelConv(24)", "--args", "float32[4,5,24]"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def text(result: Result) -> str:
    """What was printed, on one line, as line breaks depend on the width."""
    return " ".join(result.output.split())


# -- verdicts and exit codes ------------------------------------------------------------------------------------------


def test_identical_and_roundoff_exit_with_0() -> None:
    result = run("compare", "net.py:double", "net.py:double", "--args", "float32[3]")
    assert result.exit_code == 0 and "identical" in result.stdout
    result = run(*PAIR, "--match-weights")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


def test_the_question_as_it_was_asked() -> None:
    result = run(*PAIR)
    assert result.exit_code == 1
    assert "weights-differ" in text(result) and "--match-weights" in text(result)


def test_a_mistake_is_found_and_placed() -> None:
    result = run("compare", "net.py:Model(24)", "net.py:Model(24, swapped=True)", *PAIR[3:], "--match-weights")
    assert result.exit_code == 1
    assert "different-mathematics" in text(result)
    assert "net.py:16" in text(result)  # the line with the mistake
    assert "aten.elu.default" in text(result) and "aten.relu.default" in text(result)


def test_different_exits_with_1() -> None:
    assert run("compare", "net.py:double", "torch:relu", "--args", "float32[3]").exit_code == 1
    shapes = run("compare", "net.py:double", "torch:sum", "--args", "float32[3]")
    assert shapes.exit_code == 1 and "[3] in A and [] in B" in text(shapes)


def test_undecided_exits_with_3() -> None:
    result = run("compare", "net.py:unsteady", "net.py:unsteady", "--args", "float32[3]")
    assert result.exit_code == 3 and "not-deterministic" in text(result)


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, second = run(*PAIR, "--json", "-"), run(*PAIR, "--json", "-")
    other = run(*PAIR, "--json", "-", "--seed", "1")
    assert first.stdout == second.stdout != other.stdout


def test_the_version() -> None:
    result = run("--version")
    assert result.exit_code == 0 and result.stdout == f"roundoff {__version__} with PyTorch {torch.__version__}\n"


# -- options ----------------------------------------------------------------------------------------------------------


def test_modes() -> None:
    same = ["compare", "net.py:Switch", "net.py:double", "--args", "float32[3]"]
    result = run(*same)
    assert result.exit_code == 0 and "net.py:Switch (training mode)" in text(result)
    assert run(*same, "--train").exit_code == 0
    result = run(*same, "--eval")
    assert result.exit_code == 1 and "net.py:Switch (evaluation mode)" in text(result)


def test_what_training_mode_changes_is_named() -> None:
    result = run("compare", "torch.nn:Dropout(0.5)", "torch.nn:Dropout(0.5)", "--args", "float32[3]")
    assert "Training mode changes what Dropout does; --eval compares in evaluation mode." in text(result)
    assert result.exit_code == 0  # both draw the same
    for calm in (["torch.nn:Dropout(0.5)", "torch.nn:Dropout(0.5)", "--eval"], ["torch.nn:Dropout(0.0)"] * 2):
        assert "changes what" not in run("compare", *calm, "--args", "float32[3]").output


def test_gradients() -> None:
    pair = ["compare", "net.py:graded", "net.py:double", "--args", "float32[3]"]
    assert run(*pair).exit_code == 1
    assert run(*pair, "--no-grad").exit_code == 1
    assert run(*pair, "--grad").exit_code == 0


def test_several_inputs_and_keywords() -> None:
    pair = ["compare", "net.py:plus", "torch:add", "--args", "float32[3]", "--args", "float32[3]"]
    assert run(*pair).exit_code == 0
    assert run(*pair[:4], "float32[3]", "float32[3]").exit_code == 0
    assert run("compare", "--args", "float32[3]", "float32[3]", "net.py:plus", "torch:add").exit_code == 0
    torch.save(torch.ones(3), "x.pt")
    assert run("compare", "net.py:plus", "torch:add", "--args", "x.pt", "float32[3]", "--seed", "3").exit_code == 0
    assert run("compare", "net.py:plus", "net.py:plus", *pair[3:], "--args", "scale=float32[1]").exit_code == 0


def test_weights_from_files() -> None:
    torch.save(nn.Linear(8, 4).state_dict(), "w.pt")
    pair = ["compare", "net.py:Whole", "net.py:Whole", "--args", "float32[3,8]"]
    assert run(*pair).exit_code == 1
    assert run(*pair, "--weights-a", "w.pt").exit_code == 1
    result = run(*pair, "--weights-a", "w.pt", "--weights-b", "w.pt")
    assert result.exit_code == 0 and "identical" in result.stdout


def test_json_to_a_file() -> None:
    assert run(*PAIR, "--match-weights", "--json", "out.json").exit_code == 0
    data = json.loads(Path("out.json").read_text())
    assert data["verdict"] == "roundoff" and data["schema"].startswith("roundoff.comparison/")
    assert sorted(p.name for p in Path().iterdir() if "json" in p.name) == ["out.json"]  # no temporary file stays
    assert run(*PAIR, "--json", "out.json").exit_code == 1
    assert json.loads(Path("out.json").read_text())["verdict"] == "different"


def test_prove_gives_the_evidence() -> None:
    result = run(*PAIR, "--match-weights", "--prove", "--json", "out.json")
    found = json.loads(Path("out.json").read_text())
    assert result.exit_code == 0 and found["evidence"] == "proved", text(result)
    run(*PAIR, "--match-weights", "--json", "out.json")
    assert json.loads(Path("out.json").read_text())["evidence"] == "statistical"


def test_explain_says_where_the_difference_comes_from() -> None:
    result = run(*PAIR, "--match-weights", "--explain", "--json", "out.json")
    assert result.exit_code == 0
    assert "of the difference comes from matrix products and convolutions" in text(result)
    assert "The permutations made exactly 0" in text(result)
    explained = json.loads(Path("out.json").read_text())["explanation"]
    assert abs(explained["booked"] - 1) < 1e-3 and explained["ledger"]


def test_html_writes_a_page() -> None:
    assert run(*PAIR, "--match-weights", "--html", "out.html").exit_code == 0
    assert "made exactly 0" in Path("out.html").read_text()
    result = run(*PAIR, "--html", "nowhere/out.html")
    assert result.exit_code == 2 and "there is no folder nowhere" in text(result)


def test_what_cannot_be_explained_ends_as_it_would_have() -> None:
    result = run("compare", "net.py:double", "torch:sum", "--args", "float32[3]", "--explain")
    assert result.exit_code == 1
    assert "Not explained: The two networks have no output" in text(result)


def test_json_to_standard_output_is_nothing_but_json() -> None:
    result = run("compare", "net.py:chatty", "net.py:double", "--args", "float32[3]", "--json", "-")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["verdict"] == "identical"
    assert "hello from the model" in result.stderr


def test_rules_lists_the_operators() -> None:
    result = run("rules")
    assert result.exit_code == 0
    assert "addmm" in result.stdout and "permute" in result.stdout and "Higham" in result.stdout


def test_rules_of_a_network_are_counted() -> None:
    result = run("rules", "net.py:Model(24)", "--args", "float32[4,5,24]")
    assert result.exit_code == 0 and "steps are covered (100.0%)" in text(result)


def test_rules_names_what_is_not_covered() -> None:
    Path("own.py").write_text(
        "import torch\n"
        "@torch.library.custom_op('roundoff_test_cli::own', mutates_args=())\n"
        "def own(x: torch.Tensor) -> torch.Tensor:\n    return x * 3\n"
        "def net(x):\n    return own(x) + 1\n"
    )
    result = run("rules", "own.py:net", "--args", "float32[3]")
    assert result.exit_code == 0
    assert "1 of 2 steps are covered (50.0%)" in text(result)
    assert "roundoff_test_cli.own.default" in text(result) and "own.py:6" in text(result)


# -- bad input --------------------------------------------------------------------------------------------------------

ONE = ["compare", "net.py:double", "net.py:double"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Usage"),
        (["compare"], "Missing argument 'A'"),
        (["compare", "net.py:double"], "Missing argument 'B'"),
        (["comprae"], "No such command"),
        ([*ONE, "--agrs", "float32[3]"], "No such option"),
        ([*ONE, "--args"], "requires an argument"),
        ([*ONE, "net.py:double", "--args", "float32[3]"], "unexpected extra argument"),
        ([*ONE, "--args", "float32[3]", "--seed", "x"], "Invalid value for '--seed'"),
        ([*ONE, "--args", "float32[3]", "--seed", "-1"], "Invalid value for '--seed'"),
        (ONE, "takes the inputs (x), but --args gave none"),
        ([*ONE, "--args", "float32[3]", "float32[3]"], "too many positional arguments"),
        ([*ONE, "--args", "y=float32[3]"], "but --args gave 0 by position, y=: missing a required argument: 'x'"),
        ([*ONE, "--args", "flaot32[3]"], "Did you mean float32"),
        ([*ONE, "--args", "missing.npy"], "There is no file missing.npy"),
        (["compare", "nett.py:double", "net.py:double"], "Did you mean net.py?"),
        (["compare", "net.py:double", "net.py:duoble"], "Did you mean double?"),
        (["compare", "net.py:Model", "net.py:double"], "missing a required argument: 'input_dim'"),
        (["compare", "net.py:broken", "net.py:double", "--args", "float32[3]"], "A raised ValueError: cannot do this"),
        (["compare", "net.py:double", "net.py:broken", "--args", "float32[3]"], "B raised ValueError: cannot do this"),
        (["compare", "net.py:nothing", "net.py:double", "--args", "float32[3]"], "returned no tensor"),
        ([*PAIR[:3], "--args", "float32[4,5,23]"], "A raised RuntimeError"),
        ([*PAIR[:3], "--args", "float64[4,5,24]"], "A raised RuntimeError"),
        ([*PAIR[:3], "--args", "int64[4,5,24]"], "A raised RuntimeError"),
        ([*PAIR, "--weights-a", "missing.pt"], "There is no file missing.pt"),
        ([*ONE, "--args", "float32[3]", "--weights-a", "net.py"], "only a torch.nn.Module takes weights"),
        ([*ONE, "--args", "float32[3]", "--device", "gpu"], "There is no device 'gpu'"),
        ([*ONE, "--args", "float32[3]", "--json", "nowhere/x.json"], "there is no folder nowhere"),
        ([*ONE, "--args", "float32[3]", "--json", "."], "it is a folder"),
        (["compare", "net.py:Whole", "net.py:Half", "--args", "float32[3,8]", "--match-weights"], "bias"),
        (["convert", "net.py:Model(4)", "--to", "conv", "-o", "x.py"], "should end in .safetensors, .pt2 or .onnx"),
        (["order", "linear", "--k", "0"], "k must be at least 2"),
        (["order", "lineal"], "There is no operator 'lineal'"),
        (["order", "linear", "--dtype", "int8"], "There is no dtype 'int8'"),
        (["order", "linear", "--vary", "colour"], "'colour' cannot be varied"),
        (["order", "linear", "--arg", "size"], "NAME=VALUE"),
        (["order", "linear", "--svg", "nowhere/x.svg"], "there is no folder nowhere"),
        (["bench", "net.py:double", "--args", "float32[3]"], "rewrites a torch.nn.Module"),
        (["thread", "--device", "cuda:99"], "cuda:99 was asked for"),
        (["rules", "net.py:broken", "--args", "float32[3]"], "A raised ValueError"),
    ],
)
def test_what_is_wrong_is_said_and_exits_with_2(words: list[str], said: str) -> None:
    result = run(*words)
    assert result.exit_code == 2, result.output
    framed = text(result).replace("│ ", "").replace(" │", "")  # usage errors come in a frame
    assert said in framed
    assert "Traceback" not in result.output


def test_errors_go_to_standard_error() -> None:
    result = run(*ONE)
    assert result.stdout == "" and result.stderr.startswith("Error: ")


def test_a_traceback_only_when_asked_for() -> None:
    words = ["compare", "net.py:broken", "net.py:double", "--args", "float32[3]"]
    assert "Traceback" not in run(*words).output
    result = run(*words, "--traceback")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and 'raise ValueError("cannot do this")' in result.stderr
    Path("boom.py").write_text("1 / 0\n")
    assert "ZeroDivisionError" in run("compare", "boom.py:x", "net.py:double", "--traceback").stderr


def test_what_was_not_foreseen_is_said_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("somewhere deep")

    monkeypatch.setattr("roundoff.cli.compare", fails)
    result = run(*ONE, "--args", "float32[3]")
    assert result.exit_code == 2
    assert "ZeroDivisionError: somewhere deep This was not foreseen" in text(result)
    assert "Traceback" not in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none() -> None:
    for words in ([*PAIR, "--device", "cuda:0"], ["thread", "--device", "cuda:0"]):
        result = run(*words)
        assert result.exit_code == 2 and "Run with --device cpu." in text(result)


def test_an_interrupt_is_a_word_and_130() -> None:
    result = run("compare", "net.py:interrupted", "net.py:double", "--args", "float32[3]")
    assert result.exit_code == 130
    assert result.stderr.strip() == "Interrupted."


# -- as a process -----------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_process() -> None:
    command = [sys.executable, "-m", "roundoff.cli", "compare", "net.py:slow", "net.py:slow", "--args", "float32[3]"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")


def test_the_exit_code_and_the_streams_of_a_process() -> None:
    done = subprocess.run([sys.executable, "-m", "roundoff.cli", *PAIR], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "weights-differ" in done.stdout and "\x1b" not in done.stdout


# -- progress ---------------------------------------------------------------------------------------------------------


class Now:
    """A timer that does not wait."""

    def __init__(self, seconds: float, function: object) -> None:
        assert seconds == 1.0
        self.start = self.function = function

    def cancel(self) -> None: ...

    def join(self) -> None: ...


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool, timer: type = Now) -> tuple[bool, str]:
    """Whether there was anything to tell, and what appeared."""
    file = StringIO()
    monkeypatch.setattr(
        console,
        "Console",
        lambda **_: Console(file=file, force_terminal=terminal, force_interactive=terminal, width=80),
    )
    monkeypatch.setattr(console, "Timer", timer)
    with console.progress() as tell:
        if tell is not None:
            tell(1, 2, "running B")
    return tell is not None, file.getvalue()


def test_a_bar_in_a_terminal_and_silence_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    told, out = shown(monkeypatch, terminal=True)
    assert told and "running B" in out
    assert shown(monkeypatch, terminal=False) == (False, "")


def test_no_bar_in_the_first_second(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Now):
        def __init__(self, seconds: float, function: object) -> None:
            super().__init__(seconds, function)
            self.start = lambda: None

    assert shown(monkeypatch, terminal=True, timer=Never) == (True, "")
