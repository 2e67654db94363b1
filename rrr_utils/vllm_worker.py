"""vLLM in a process and an environment of its own: token ids in, token ids out, a JSON object a line.

`engines.py` runs this file by its path with that environment's Python, so it imports the standard library and vLLM
alone. The first line holds `llm`, arguments of vllm.LLM, and `adapter`, a folder or null; its answer is the `device`.
A line then holds `prompts` (lists of ids), `seeds` (one each), `adapter` (true or false) and `how`, arguments of
SamplingParams; each prompt is answered as soon as it is done, by its place and the `ids` of its texts. The process ends
with its stdin, or with an error as the last line on stderr.
"""

import json
import os
import sys
import traceback


def main() -> None:
    """Serve the process that started this one, until it closes stdin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM and what it loads print on stdout

    def tell(**answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    asked = (json.loads(line) for line in sys.stdin)
    given = next(asked)
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform

    gpu = not current_platform.is_cpu()  # compiling pays there alone; a prompt in parts breaks a CPU's seeded texts
    llm = LLM(**given["llm"], enforce_eager=not gpu, enable_chunked_prefill=gpu)
    adapter = LoRARequest("adapter", 1, given["adapter"]) if given["adapter"] else None
    tell(device=current_platform.device_type)
    for one in asked:
        how = [SamplingParams(**one["how"], seed=seed) for seed in one["seeds"]]
        prompts = [{"prompt_token_ids": ids} for ids in one["prompts"]]
        speaker = adapter if one["adapter"] else None
        names = llm.enqueue(prompts, how, lora_request=speaker, use_tqdm=False)
        places = {name.split("-")[0]: place for place, name in enumerate(names)}  # "3-9f0c" is request 3
        while llm.llm_engine.has_unfinished_requests():
            for done in llm.llm_engine.step():
                if done.finished:
                    place = places[done.request_id.split("-")[0]]
                    tell(prompt=place, ids=[list(text.token_ids) for text in done.outputs])


if __name__ == "__main__":
    try:
        main()
        status = 0
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        print(" ".join(f"{type(error).__name__}: {error}".split())[:400], file=sys.stderr)
        status = 1
    sys.stderr.flush()
    os._exit(status)  # at once: what vLLM does at its end takes long and logs more lines
