"""The progress bar: when it is shown and what it says."""

from __future__ import annotations

import pytest
from toy_denoiser import TOKENS, ToyDenoiser

from opencompass_llada.sampling import SamplerConfig, StepListener, make_progress, sample
from opencompass_llada.sampling.loop import PROGRESS_VARIABLE, ProgressBar
from opencompass_llada.sampling.schedule import BlockPlan


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("setting", "expected"),
    [("on", True), ("1", True), (" Off ", False), ("0", False), ("auto", None), ("", None)],
)
def test_environment_decides_over_the_terminal(
    setting: str, expected: bool | None, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setenv(PROGRESS_VARIABLE, setting)
    assert isinstance(make_progress(), ProgressBar) == (terminal if expected is None else expected)
    monkeypatch.delenv(PROGRESS_VARIABLE)
    assert type(make_progress()) is (ProgressBar if terminal else StepListener)


def test_unknown_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, "onn")
    with pytest.raises(ValueError, match=f"{PROGRESS_VARIABLE} 'onn'. Did you mean 'on'"):
        make_progress()


def test_bar_names_sample_block_and_step(capsys: pytest.CaptureFixture[str]) -> None:
    config = SamplerConfig(generation_length=8, block_length=4, num_steps=4)
    bar = ProgressBar(delay=0.0)
    plan = BlockPlan(generation_length=8, block_length=4, num_steps=4)
    bar.start_batch(2, plan)
    assert "sample 1-2 block 1/2 step 0/2" in capsys.readouterr().err
    bar.finish_batch()
    sample(ToyDenoiser(), [[1], [2]], config, TOKENS, device="cpu", progress=bar)
    capsys.readouterr()
    bar.start_batch(1, plan)
    assert "sample 5 block 1/2 step 0/2" in capsys.readouterr().err
    bar.finish_batch()


class Recorder(StepListener):
    def __init__(self) -> None:
        self.events: list[object] = []

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        self.events.append((num_samples, plan.num_steps))

    def finish_step(self, block_index: int, step_index: int) -> None:
        self.events.append((block_index, step_index))

    def finish_batch(self) -> None:
        self.events.append("end")


def test_sampler_reports_every_step_in_order_and_the_end_after_a_failure() -> None:
    config = SamplerConfig(generation_length=8, block_length=4, num_steps=4)
    recorder = Recorder()
    sample(ToyDenoiser(), [[1], [2, 3]], config, TOKENS, device="cpu", progress=recorder)
    assert recorder.events == [(2, 4), (0, 0), (0, 1), (1, 0), (1, 1), "end"]

    def fail(*_: object) -> None:
        raise MemoryError("full")

    recorder = Recorder()
    with pytest.raises(MemoryError):
        sample(fail, [[1]], config, TOKENS, device="cpu", progress=recorder)  # type: ignore[arg-type]
    assert recorder.events == [(1, 4), "end"]


def test_progress_changes_no_result() -> None:
    config = SamplerConfig(generation_length=8, block_length=4, num_steps=4, temperature=1.0)
    plain = sample(ToyDenoiser(), [[1], [2, 3]], config, TOKENS, device="cpu")
    shown = sample(
        ToyDenoiser(), [[1], [2, 3]], config, TOKENS, device="cpu", progress=ProgressBar()
    )
    assert shown == plain
