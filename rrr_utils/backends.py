"""Training backends: the same 4-bit base, adapter and tokenizer by transformers or by Unsloth, chosen without torch.

Unsloth must be imported before trl and transformers, and patches their classes for as long as its process lives, so it
trains in a process of its own: `train_apart`, which runs this file, as it does where `gpus` asks for several processes
for one model. What was found in Unsloth's source (2026.10.7):

- its trainer ignores `peft_config` and then trains all weights: the adapter is attached here, for both backends;
- its loader takes another checkpoint than the one named, quantises twice, goes on in other numbers where it cannot
  have 4 bits or bfloat16, and cuts texts at `max_seq_length`;
- its loss takes every pad token for padding (`tokens.safe_pad`), and float32 becomes 16 bits.

Not covered: its engine over vLLM (`fast_inference`), several GPUs, families of its slower loader, such as Phi-3.
"""

import codecs
import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from huggingface_hub import hf_hub_download

from rrr_utils import conversation, gpus, runs
from rrr_utils.errors import PLAIN, ResultsError, SettingsError
from rrr_utils.settings import ROOT, Settings

if TYPE_CHECKING:
    from rrr_utils.policy import Policy

#: families of Unsloth's fast loader, by the config's `model_type`
FAST = ("llama", "mistral", "qwen2", "qwen3")


def choose(settings: Settings, stage: str) -> tuple[str, str]:
    """The backend that trains, and why. Raises SettingsError where `backend` names one that cannot train here."""
    if stage != "train":
        return ("transformers" if settings.backend == "auto" else settings.backend), "only training has a choice"
    if settings.backend != "auto":
        if why := refusal(settings):
            raise SettingsError(why)
        return settings.backend, "as asked"
    if why := _lacking(settings):
        return "transformers", f"not unsloth: {why}"
    return "unsloth", "a GPU, the package, and a family of its fast loader"


def refusal(settings: Settings) -> str | None:
    """Why `backend=unsloth` cannot train here, and what to do, in one line; None where it can or was not asked for."""
    why = _lacking(settings) if settings.backend == "unsloth" else None
    return f"backend=unsloth cannot train here: {why}; or use backend=transformers" if why else None


def _lacking(settings: Settings) -> str | None:
    """What Unsloth needs and does not find, looked up without importing it or torch."""
    if settings.lora_rank == 0:
        return "it trains an adapter, and lora_rank is 0"
    if settings.gpus != 1:
        return f"it trains on one GPU, and gpus is {settings.gpus}"
    if not gpus.visible() or importlib.metadata.version("torch").endswith("+cpu"):
        return "it needs a CUDA GPU and a torch that uses it"
    if settings.dtype == "float32":
        return "it trains in 16 bits, and dtype is float32: bfloat16 is for most GPUs, float16 for a T4"
    if importlib.util.find_spec("unsloth") is None:
        return "it is not installed: pip install --no-deps -r requirements-gpu.txt"
    family = _family(settings)
    return None if family in FAST else f"its fast loader serves {', '.join(FAST)}, and this model is {family}"


def _family(settings: Settings) -> str:
    """The `model_type` in the model's config.json, "unknown" where there is no way to it."""
    path, revision = runs.model_path(settings)
    try:
        local = Path(path) / "config.json"
        file = local if revision is None else Path(hf_hub_download(path, "config.json", revision=revision))
        return json.loads(file.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError):
        return "unknown"


def load(settings: Settings, prompts: list[conversation.Messages]) -> "Policy":
    """The base with a fresh adapter in float32, which alone trains, or with `lora_rank` 0 the base alone, to train.

    `prompts`: what is trained on; Unsloth is told how long texts get. The caller seeds before. Raises SettingsError.
    """
    from peft import get_peft_model

    from rrr_utils import policy

    if settings.backend != "unsloth":
        base = policy.load_base(settings)
        model = get_peft_model(base.model, policy.lora_config(settings)) if settings.lora_rank else base.model
    else:
        if "unsloth" not in sys.modules:
            raise SettingsError("unsloth must be imported before trl and transformers are: call training.train")
        from unsloth import FastLanguageModel

        more = loader_options(settings, prompts)
        base = policy.load_base(
            settings, lambda path, **rest: FastLanguageModel.from_pretrained(path, **rest, **more)[0]
        )
        numbers = (str(base.model.dtype), getattr(base.model, "is_loaded_in_4bit", False))
        if numbers != (f"torch.{settings.dtype}", settings.load_in_4bit):
            text = f"unsloth loaded the model with (dtype, load_in_4bit) {numbers}"
            raise SettingsError(f"{text}, not as asked for: use backend=transformers")
        base.model.generation_config.max_length = None  # it sets one, and every generation would say so
        model = FastLanguageModel.get_peft_model(base.model, **adapter_options(settings))
    if settings.lora_rank:
        policy.trainable_to_float32(model)
        policy.add_in_place(model)
    return policy.Policy(model, base.tokenizer)


def loader_options(settings: Settings, prompts: list[conversation.Messages]) -> dict[str, Any]:
    """What its loader is told besides what transformers' is; `max_seq_length` leaves room for the longest retry."""
    from transformers import AutoConfig

    from rrr_utils import tokens

    path, revision = runs.model_path(settings)
    longest = max(map(len, conversation.prompt_ids(tokens.load(path, revision), prompts)))
    room = 4 * longest + settings.reflection_tokens + settings.attempt_tokens  # dev prompts are not among these
    most = AutoConfig.from_pretrained(path, revision=revision).max_position_embeddings  # beyond, it rescales positions
    return {
        "max_seq_length": min(room, most),
        "load_in_4bit": settings.load_in_4bit,
        "use_exact_model_name": True,
        "use_gradient_checkpointing": settings.gradient_checkpointing,
        "offload_embedding": False,
        "fast_inference": False,
        "fix_tokenizer": False,
        "random_state": settings.seed,
    }


def adapter_options(settings: Settings) -> dict[str, Any]:
    """What its `get_peft_model` is told: our adapter, as `policy.lora_config` has it."""
    from rrr_utils import policy

    ours = policy.lora_config(settings)
    names = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias")
    checkpointing = {"use_gradient_checkpointing": settings.gradient_checkpointing}
    return {**{name: getattr(ours, name) for name in names}, **checkpointing, "random_state": settings.seed}


def train_apart(directory: Path) -> None:
    """Run `rrr_utils.training` on a stage's folder, with Unsloth or in several processes as its settings.json says,
    apart from this process, which hands on what they print.

    An interrupt is passed on: the training saves and ends, and KeyboardInterrupt is raised here. Raises ResultsError
    with the last line of a training that failed. A process that loses its parent ends.
    """
    text, stopped, decoder = "", False, codecs.getincrementaldecoder("utf-8")("replace")

    def pass_on(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        process.send_signal(signal.SIGINT)

    with tempfile.TemporaryDirectory(prefix="rrr-unsloth-") as cache:  # its compiled sources; else the working folder
        quiet = {"UNSLOTH_COMPILE_LOCATION": cache, "UNSLOTH_DISABLE_STATISTICS": "1", "PYTHONUNBUFFERED": "1"}
        words = [sys.executable, "-m", "rrr_utils.backends", str(directory)]
        options = {"cwd": ROOT, "env": {**os.environ, **quiet}, "start_new_session": True}
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as process:
            before = signal.signal(signal.SIGINT, pass_on)
            try:
                while chunk := process.stdout.read1(4096):
                    print(new := decoder.decode(chunk), end="", flush=True)
                    text = (text + new)[-4000:]
            finally:
                signal.signal(signal.SIGINT, before)
    if stopped:
        raise KeyboardInterrupt("the training was stopped: run it again to go on")
    if process.returncode:
        last = "".join(text.split("\n")[-2:]).strip().rpartition("\r")[2]
        raise ResultsError(
            f"the training's process ended with status {process.returncode} (the same command goes on from its last "
            f"checkpoint): {last}"
        )


def end_with_parent() -> None:
    """From now on this process ends when its parent has ended."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def _in_processes(directory: str, number: int) -> None:
    """Run `rrr_utils.training` on a stage's folder in several processes, by torch's own launcher: one that fails ends
    the others, and only the first one prints. SystemExit tells in one line why one failed."""

    def pass_on(number: int, frame: Any) -> None:
        if not (workers := psutil.Process().children()):
            os._exit(1)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, pass_on)  # torch's launcher would kill what does not end within 30 seconds
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # its own choice, which it would warn of
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    words = ["--standalone", f"--nproc-per-node={number}", "--local-ranks-filter=0", "--signals-to-handle=SIGHUP"]
    try:
        run.run(run.parse_args([*words, "-m", "rrr_utils.training", directory]))
    except ChildFailedError as error:
        plain, told = tuple(f"{kind.__name__}:" for kind in PLAIN), []
        for rank, one in error.failures.items():
            text = " ".join((one.message["message"] if isinstance(one.message, dict) else one.message).split())
            late = one.exitcode in (1, -signal.SIGTERM)  # that a process lost the others is no cause
            told.append((not text.startswith(plain), late, one.timestamp, f"process {rank} of {number}: {text}"))
        sys.exit(f"\n{min(told)[-1]}")  # a bar may have no end of line yet


if __name__ == "__main__":
    end_with_parent()
    if "SLURM_JOB_ID" in os.environ:  # a cluster that ends a job signals all its processes: the kernel interrupts these
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if (processes := json.loads((Path(sys.argv[1]) / "settings.json").read_text(encoding="utf-8"))["gpus"]) > 1:
        _in_processes(sys.argv[1], processes)
    else:
        importlib.import_module("unsloth")
        runpy.run_module("rrr_utils.training", run_name="__main__", alter_sys=True)
