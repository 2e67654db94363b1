"""Generation engines: the same prompts, limits and ends of turn, by transformers (`hf`) or by vLLM.

vLLM lives in an environment of its own (`make vllm`), since its pins and the lock's do not go together: a worker there
(`vllm_worker.py`) takes token ids and gives token ids. It reads no NF4, so it serves a plain checkpoint of the weights
that the 4 bits stand for: the very model that is trained. Torch is imported only where an engine is made.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from tqdm.auto import tqdm

from rrr_utils import conversation, fit, gpus, runs
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.files import is_disk_error, no_space
from rrr_utils.settings import ROOT, Settings

if TYPE_CHECKING:
    from rrr_utils.conversation import Messages
    from rrr_utils.sampling import Completion

Sampler = "HFSampler | VLLMSampler"

#: what vLLM 0.32 runs on, and the ranks of adapters that it takes
CAPABILITY, RANKS = 8.0, (1, 8, 16, 32, 64, 128, 256, 320, 512)
#: most of a card's memory that plain weights may take: the rest is for what is generated
WEIGHTS = 0.7
#: tokens of a context besides texts of the settings' limits: questions and requests
CONTEXT = 2048


def vllm_python() -> Path | None:
    """The Python of vLLM's environment, if it is there: $RRR_VLLM_PYTHON, else the one that `make vllm` made."""
    python = Path(os.environ.get("RRR_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python").expanduser()
    return python if python.is_file() else None


def refusal(settings: Settings, stage: str) -> str | None:
    """Why `engine: vllm` cannot run a stage here, and what to do instead; none where it can, or nobody asks for it."""
    why = _obstacle(settings) if settings.engine == "vllm" and stage != "train" else None
    return f"engine is vllm, and {why}; engine=hf runs without it" if why else None


def _obstacle(settings: Settings) -> str | None:
    card, named = gpus.card(), os.environ.get("RRR_VLLM_PYTHON")
    if vllm_python() is None:
        return f"RRR_VLLM_PYTHON is {named}, which is not there" if named else "vLLM is not installed: make vllm"
    if card and card.capability < CAPABILITY:
        return f"vLLM wants a GPU of compute capability {CAPABILITY} and {card.name} has {card.capability}"
    if settings.lora_rank > RANKS[-1]:
        return f"vLLM takes adapters up to rank {RANKS[-1]}, not {settings.lora_rank}"
    return None


def choose(settings: Settings, stage: str) -> tuple[str, str]:
    """The engine of a stage, "hf" or "vllm", and why, in a few words. SettingsError where vllm is asked for and cannot
    run. Training samples in its own process, whatever the engine."""
    asked = settings.engine == "vllm"
    if stage == "train" or settings.engine == "hf":
        return "hf", "training samples by itself" if stage == "train" else "as set"
    if not asked and gpus.card() is None:
        return "hf", "a part of a GPU" if gpus.visible() else "no GPU"
    why, takes, there = _obstacle(settings), _plain_bytes(settings) / 2**30, gpus.total_bytes() / 2**30
    if why is None and takes > WEIGHTS * there:
        why = f"plain weights of {takes:.1f} GiB leave too little of {there:.1f} GiB"
    if why and asked:
        raise SettingsError(f"engine is vllm, and {why}; engine=hf runs without it")
    return ("hf", why) if why else ("vllm", "as set" if asked else "a GPU that it runs on")


def _plain_bytes(settings: Settings) -> int:
    from transformers import AutoConfig

    path, revision = runs.model_path(settings)
    return plain_bytes(settings, fit.shape(AutoConfig.from_pretrained(path, revision=revision)))


def plain_bytes(settings: Settings, one: fit.Shape) -> int:
    """What the weights take that vLLM serves: all of them in the settings' dtype."""
    return (one.linear + one.embeddings) * fit.BYTES[settings.dtype]


def make_sampler(settings: Settings, adapter: Path | None = None) -> Sampler:
    """A sampler over the base model and the trained adapter, if any, by the engine that the settings name."""
    if settings.engine == "vllm":
        return VLLMSampler(settings, adapter)
    from rrr_utils.policy import load_policy
    from rrr_utils.sampling import HFSampler

    return HFSampler(load_policy(settings, adapter), settings.sample_batch)


def plain_checkpoint(settings: Settings) -> Path:
    """A folder with the base model as vLLM reads it: where it is in 4 bits, the weights that these stand for, written
    out once, in the settings' dtype. Raises ResultsError where the disk does not take it."""
    path, revision = runs.model_path(settings)
    if not settings.load_in_4bit:
        files = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
        return Path(snapshot_download(path, revision=revision, allow_patterns=files) if revision else path)
    what = [runs.identity(settings, "failures")["model_hash"], settings.dtype, "nf4"]
    digest, name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8], runs.model_name(settings)
    folder = runs.root(settings) / ".plain" / f"{name.replace('/', '--')}-{digest}"
    with runs.hold(folder.parent):
        if not folder.is_dir():
            size = f"{_plain_bytes(settings) / 2**30:.2g} GiB"
            print(f"vLLM reads no 4-bit weights: {folder} gets them as {settings.dtype}, once ({size})", flush=True)
            _write_plain(settings, folder)
    return folder


def _write_plain(settings: Settings, folder: Path) -> None:
    from rrr_utils import policy

    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    base = policy.load_base(settings)
    base.model.dequantize()  # in place, a layer at a time: the card never holds a second model
    try:
        base.model.save_pretrained(part)
        base.tokenizer.save_pretrained(part)
        part.rename(folder)
    except Exception as error:
        if is_disk_error(error):
            raise no_space(folder, OSError(28, "No space left on device")) from None
        raise
    del base
    gpus.free()


class VLLMSampler:
    """Generates with vLLM in a worker process, which ends with this object. A text depends on the seed and on its
    conversation's place, and, up to rounding, on nothing that is generated beside it."""

    def __init__(self, settings: Settings, adapter: Path | None = None, progress: bool = True):
        from transformers import AutoConfig, GenerationConfig

        from rrr_utils import tokens

        if adapter is not None and settings.lora_rank == 0:  # the folder holds a whole model
            settings, adapter = settings.model_copy(update={"model": str(adapter)}), None
        self.settings, self.adapter, self.progress = settings, adapter, progress
        self.told: Callable[[int], None] | None = None  # as HFSampler's
        self.folder, (path, revision) = plain_checkpoint(settings), runs.model_path(settings)
        self.tokenizer, config = tokens.load(path, revision), AutoConfig.from_pretrained(path, revision=revision)
        try:
            generation = GenerationConfig.from_pretrained(path, revision=revision)
        except OSError:
            generation = GenerationConfig.from_model_config(config)
        self.ends = tokens.ends(generation, self.tokenizer)
        self.longest, self.length = config.get_text_config().max_position_embeddings, 0
        self.process, self.log, self.close = None, None, lambda: None
        self._start(0)

    def sample(
        self, conversations: "list[Messages]", n: int, max_tokens: int, temperature: float, seed: int,
        desc: str = "generating", begin: str = "", adapter: bool = True,
    ) -> "list[list[Completion]]":  # fmt: skip
        """As `HFSampler.sample`. Raises ResultsError where the worker ends, with its last line."""
        from rrr_utils.sampling import completion

        ids = conversation.prompt_ids(self.tokenizer, conversations, begin)
        if not ids:
            return []
        how = {"n": n, "max_tokens": max_tokens, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        how |= {"stop_token_ids": self.ends, "detokenize": False}
        seeds = [int(hashlib.sha256(f"{seed} {k}".encode()).hexdigest()[:15], 16) for k in range(len(ids))]
        asked = {"prompts": ids, "seeds": seeds, "adapter": adapter and self.adapter is not None, "how": how}
        results, tokens = [[] for _ in ids], 0
        bar = tqdm(
            total=len(ids), desc=desc, unit="text", disable=not self.progress or self.told is not None, leave=False
        )
        try:
            self._start(max(map(len, ids)) + max_tokens)
            for answer in itertools.islice(self._answers(asked), len(ids)):
                own = [completion(self.tokenizer, text, self.ends, begin) for text in answer["ids"]]
                results[answer["prompt"]] = own
                tokens += sum(c.tokens for c in own)
                bar.set_postfix(tokens=tokens, refresh=False)
                bar.update()
                if self.told:
                    self.told(1)
        except BaseException:  # after an interrupt there are answers that nobody waits for
            self.close()
            raise
        finally:
            bar.close()
        return results

    def _start(self, length: int) -> None:
        """A worker whose model holds as many tokens of conversation and text; the one that runs, if it does."""
        s = self.settings
        if self.process is not None and self.process.poll() is None and length <= self.length:
            return
        self.close()
        if length > self.longest:
            text = f"a conversation and its text take {length} tokens and {s.model} holds {self.longest}"
            raise SettingsError(f"{text}: lower attempt_tokens or reflection_tokens, or choose another model")
        usual = 2 * s.attempt_tokens + s.reflection_tokens + CONTEXT
        self.length = min(self.longest, max(length, usual))
        llm = {
            "model": str(self.folder), "dtype": s.dtype, "max_model_len": self.length, "skip_tokenizer_init": True,
            "generation_config": "vllm", "enable_prefix_caching": True, "gpu_memory_utilization": 0.85, "seed": 0,
        }  # fmt: skip
        if self.adapter is not None:
            llm |= {"enable_lora": True, "max_lora_rank": next(rank for rank in RANKS if rank >= s.lora_rank)}
        self._launch()
        device = next(self._answers({"llm": llm, "adapter": self.adapter and str(self.adapter)}))["device"]
        if device == "cpu" and gpus.visible():
            raise SettingsError("vLLM's environment was made for a CPU: remove .venv-vllm, then make vllm on the GPU")

    def _launch(self) -> None:
        if (python := vllm_python()) is None:
            raise SettingsError("this run was begun with engine vllm, and vLLM is not installed: make vllm")
        env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", **os.environ}  # on a CPU; GiB
        env |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        env |= {"OMP_NUM_THREADS": str(self.settings.threads)} if self.settings.threads else {}
        words = [str(python), "-P", str(Path(__file__).with_name("vllm_worker.py"))]  # -P: without our files' names
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        with tempfile.NamedTemporaryFile(prefix="rrr-vllm-", suffix=".log", delete=False) as log:
            self.process = subprocess.Popen(words, **pipes, stderr=log, env=env, start_new_session=True)
        self.log = Path(log.name)
        self.close = weakref.finalize(self, _end, self.process, self.log)

    def _answers(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the worker answers to a line, one by one, until it ends."""
        with contextlib.suppress(OSError, ValueError):  # it is gone, or its last line is torn
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                yield json.loads(line)
        status = self.process.wait()
        said = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
        how = f"was killed (signal {-status})" if status < 0 else "ended"
        raise ResultsError(f"vLLM's worker {how}: {last[:400]} ({self.log} tells more). The same command goes on")


def _end(process: subprocess.Popen, log: Path) -> None:
    """End a worker, and remove its log unless it died by itself."""
    if process.poll() is None:
        log.unlink(missing_ok=True)
    with contextlib.suppress(OSError), process:  # closes the pipes and waits
        process.kill()
