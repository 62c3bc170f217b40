"""Signals: the first sets a flag, the second ends the process, and the former handlers are restored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from medsum_core.process import STOP_SIGNALS
from medsum_core.training.signals import stop_on_signals

pytestmark = pytest.mark.usefixtures("signals_that_are_not_ignored")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_sets_the_flag_and_handlers_are_restored(number: signal.Signals) -> None:
    former = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    with stop_on_signals() as flag:
        assert not flag.requested
        os.kill(os.getpid(), number)
        assert flag.requested and flag.signal_name == number.name
    assert {each: signal.getsignal(each) for each in former} == former


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not flag.requested
            os.kill(os.getpid(), signal.SIGUSR1)
            assert flag.requested and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_handlers_are_restored_after_an_error() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), stop_on_signals():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) == former


def test_a_repeated_signal_shortly_after_the_first_is_the_same_request() -> None:
    with stop_on_signals(echo_seconds=60.0) as flag:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.requested and flag.signal_name == "SIGINT"


def start(echo_seconds: float) -> subprocess.Popen[str]:
    script = f"""
        import time
        from medsum_core.training.signals import stop_on_signals
        with stop_on_signals(echo_seconds={echo_seconds}) as flag:
            print("ready", flush=True)
            while not flag.requested:
                time.sleep(0.01)
            print("stopping", flush=True)
            # Without echoes to tell apart, the second signal ends even one long operation that runs no Python.
            sum(range(10**12)) if {echo_seconds} == 0.0 else time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("echo_seconds", [0.0, 0.2])
@pytest.mark.parametrize("first,second", [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM"), ("SIGINT", "SIGINT")])
def test_the_second_signal_ends_the_process_at_once(first: str, second: str, echo_seconds: float) -> None:
    process = start(echo_seconds)
    assert process.stdout is not None and process.stderr is not None
    process.send_signal(signal.Signals[first])
    assert process.stdout.readline() == "stopping\n"
    time.sleep(echo_seconds * 2)
    process.send_signal(signal.Signals[second])
    try:
        assert process.wait(timeout=10) == -signal.Signals[second]
    finally:
        process.kill()
    assert f"{first}: stopping as soon as all is saved" in process.stderr.read()
