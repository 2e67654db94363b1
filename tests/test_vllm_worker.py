"""vLLM's worker at the edges of its protocol: a real process, with a made-up `vllm` module; the real one is in test_vllm.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

import psutil
import pytest
from small import small

from rrr_utils import conversation, engines, gpus
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.settings import ROOT
from rrr_utils.tasks import countdown

T4, L4 = gpus.Card("Tesla T4", 15 * 2**30, 7.5), gpus.Card("NVIDIA L4", 22 * 2**30, 8.9)

#: says of a prompt its ids backwards, then an end; a first id of 1 kills the process, of 2 raises an error
STAND_IN = """
import os, signal, sys
from types import SimpleNamespace
print("garbage on stdout")
os.write(1, b"and below Python\\n")

class SamplingParams:
    def __init__(self, **how):
        self.how = how

class LLM:
    def __init__(self, **given):
        assert given["generation_config"] == "vllm" and given["skip_tokenizer_init"]
        self.llm_engine, self.left, self.given = self, [], given

    def enqueue(self, prompts, how, lora_request, use_tqdm):
        names = [f"{7 + k}-{k:x}" for k in range(len(prompts))]
        self.left = [(name.split("-")[0], *rest) for name, *rest in zip(names, prompts, how)]
        self.speaker = lora_request
        return names

    def has_unfinished_requests(self):
        return bool(self.left)

    def step(self):
        print("a step")
        name, prompt, one = self.left.pop()
        ids, how = prompt["prompt_token_ids"], one.how
        if len(ids) == 1:
            os.kill(os.getpid(), signal.SIGKILL) if ids == [1] else exec('raise MemoryError("two\\\\nlines")')
        said = (ids[::-1] + how["stop_token_ids"][:1])[: how["max_tokens"]]
        if self.speaker:
            said = said[1:]
        texts = [SimpleNamespace(token_ids=tuple(said)) for _ in range(how["n"])]
        return [SimpleNamespace(finished=False, request_id=name, outputs=[])] + [
            SimpleNamespace(finished=True, request_id=name, outputs=texts)]
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A Python with a made-up vllm."""
    home = tmp_path / "stand_in"
    (home / "vllm" / "lora").mkdir(parents=True)
    (home / "vllm" / "__init__.py").write_text(STAND_IN)
    (home / "vllm" / "lora" / "__init__.py").write_text("")
    (home / "vllm" / "lora" / "request.py").write_text("def LoRARequest(*words): return words\n")
    platform = "from types import SimpleNamespace\ncurrent_platform = SimpleNamespace(device_type='cpu', is_cpu=bool)\n"
    (home / "vllm" / "platforms.py").write_text(platform)
    monkeypatch.setenv("PYTHONPATH", str(home))
    monkeypatch.setenv("RRR_VLLM_PYTHON", sys.executable)
    return home


@pytest.fixture
def sampler(stand_in, tmp_path):
    one = engines.VLLMSampler(small(tmp_path, load_in_4bit=False), progress=False)
    yield one
    one.close()


def test_ids_go_out_and_texts_come_back_in_order(sampler):
    rows = countdown.load("dev", 5, 0)
    asked = [conversation.attempt(countdown, row) for row in rows]
    ids = conversation.prompt_ids(sampler.tokenizer, asked)
    said = sampler.sample(asked, 2, 300, 0.9, 0)
    assert [len(own) for own in said] == [2] * 5
    for own, prompt in zip(said, ids, strict=True):
        assert own[0] == own[1] and not own[0].truncated
        ends = next(k for k, one in enumerate([*prompt[::-1], sampler.ends[0]]) if one in sampler.ends)
        assert own[0].text == sampler.tokenizer.decode(prompt[::-1][:ends], skip_special_tokens=True)
        assert own[0].tokens == ends + 1
    [[cut]] = sampler.sample(asked[:1], 1, 1, 0.0, 0)
    assert cut.tokens == 1 and cut.truncated
    [[begun]] = sampler.sample(asked[:1], 1, 1, 0.0, 0, begin="Aim")
    assert begun.text.startswith("Aim") and begun.tokens == 1
    assert sampler.sample([], 1, 2, 0.0, 0) == []


def test_seeds_differ_by_call_and_by_place(sampler, monkeypatch):
    asked, seen = [conversation.attempt(countdown, row) for row in countdown.load("dev", 3, 0)], []
    answers = sampler._answers

    def spy(line):
        seen.append(line)
        return answers(line)

    monkeypatch.setattr(sampler, "_answers", spy)
    for seed in (0, 1, 0):
        sampler.sample(asked, 1, 4, 0.9, seed)
    first, second, third = (line["seeds"] for line in seen[-3:])
    assert first == third and len({*first, *second}) == 6 and all(0 <= seed < 2**63 - 10_000 for seed in first)
    how = seen[-1]["how"]
    assert (how["top_p"], how["top_k"], how["temperature"], how["max_tokens"]) == (1.0, 0, 0.9, 4)
    assert how["stop_token_ids"] == sampler.ends == [sampler.tokenizer.eos_token_id]


def test_a_request_of_millions_of_ids_goes_through(sampler):
    asked = [[{"role": "user", "content": "( 1 + 2 ) " * 60}]] * 3000
    said = sampler.sample(asked, 1, 100, 0.0, 0)
    assert len(said) == 3000 and len({own[0] for own in said}) == 1


def test_the_adapter_speaks_only_when_asked(stand_in, tmp_path):
    settings = small(tmp_path, load_in_4bit=False)
    one = engines.VLLMSampler(settings, tmp_path / "adapter", progress=False)
    asked = [conversation.attempt(countdown, row) for row in countdown.load("dev", 1, 0)]
    [[base]], [[adapted]] = one.sample(asked, 1, 99, 0.0, 0, adapter=False), one.sample(asked, 1, 99, 0.0, 0)
    assert base.tokens == adapted.tokens + 1
    one.close()


def test_a_worker_that_is_killed_or_fails_is_one_line_and_comes_again(sampler, monkeypatch):
    asked = [conversation.attempt(countdown, row) for row in countdown.load("dev", 2, 0)]
    sampler.sample(asked, 1, 4, 0.0, 0)
    for ids, words in (([1], r"was killed \(signal 9\)"), ([2], "ended: MemoryError: two lines")):
        with monkeypatch.context() as patch, pytest.raises(ResultsError, match=words) as error:
            patch.setattr(conversation, "prompt_ids", lambda *_, ids=ids: [ids])
            sampler.sample(asked[:1], 1, 4, 0.0, 0)
        assert "\n" not in str(error.value) and sampler.log.is_file() and str(sampler.log) in str(error.value)
        sampler.log.unlink()
        assert len(sampler.sample(asked, 1, 4, 0.0, 0)) == 2
    psutil.Process(sampler.process.pid).send_signal(signal.SIGKILL)  # while nobody waits for it
    sampler.process.wait()
    assert len(sampler.sample(asked, 1, 4, 0.0, 0)) == 2


def test_the_worker_ends_with_its_owner_and_leaves_no_log(sampler, stand_in, tmp_path):
    asked = [conversation.attempt(countdown, row) for row in countdown.load("dev", 2, 0)]
    sampler.sample(asked, 1, 4, 0.0, 0)
    process, log = sampler.process, sampler.log
    sampler.close()
    assert process.poll() is not None and not log.exists()
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from small import small
from rrr_utils import conversation, engines
from rrr_utils.tasks import countdown
one = engines.VLLMSampler(small(Path({str(tmp_path)!r}), load_in_4bit=False), progress=False)
one.sample([conversation.attempt(countdown, row) for row in countdown.load("dev", 2, 0)], 1, 4, 0.0, 0)
print(one.process.pid, flush=True)
import os; os.kill(os.getpid(), 9)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    pid = int(said.stdout.split()[-1])
    if psutil.pid_exists(pid):
        psutil.wait_procs([psutil.Process(pid)], timeout=10)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_longer_context_starts_it_anew_and_too_long_a_one_is_a_line(sampler):
    asked = [conversation.attempt(countdown, row) for row in countdown.load("dev", 1, 0)]
    assert sampler.length == sampler.longest == 512  # all that this model holds
    sampler.longest = 5000
    sampler.sample(asked, 1, 600, 0.0, 0)
    first, length = sampler.process.pid, sampler.length
    s = sampler.settings
    assert length == 2 * s.attempt_tokens + s.reflection_tokens + engines.CONTEXT
    sampler.sample(asked, 1, length, 0.0, 0)
    assert sampler.process.pid != first and length < sampler.length < 5000
    with pytest.raises(SettingsError, match="holds 5000: lower attempt_tokens"):
        sampler.sample(asked, 1, 5000, 0.0, 0)


def test_a_python_without_vllm_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_VLLM_PYTHON", sys.executable)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ResultsError, match="ended: ModuleNotFoundError: No module named 'vllm'"):
        engines.VLLMSampler(small(tmp_path, load_in_4bit=False), progress=False)
    [log] = tmp_path.glob("rrr-vllm-*.log")
    assert "Traceback" in log.read_text()
