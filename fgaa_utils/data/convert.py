"""The models that the fetched wheels carry, made once: GGUF to safetensors and tokenizer files."""

import hashlib
import json
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fgaa_utils.digests import sha256
from fgaa_utils.params import load_params
from fgaa_utils.project import MODEL, RAW, need_space


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as safetensors (bfloat16) and tokenizer files.

    Done once: reading a GGUF takes over a minute, the result loads in seconds. The quantised weights have
    at most 6 bits, so bfloat16 loses nothing of note.
    """
    need_space(folder.parent, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # non-writable numpy views inside gguf
        hf = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    hf.hf_quantizer = None  # save_pretrained refuses a GGUF model while it says that it is quantised
    del hf.config.quantization_config
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {"gguf_sha256": sha256(gguf), "weights_sha256": sha256(folder / "model.safetensors")}
    (folder / "source.json").write_text(json.dumps(record, indent=1) + "\n")


def join_parts(parts: list[Path], target: Path, expected_sha256: str) -> None:
    """Concatenate files and check the whole. Raises: ValueError if its hash is wrong."""
    whole = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            data = part.read_bytes()
            whole.update(data)
            out.write(data)
    if whole.hexdigest() != expected_sha256:
        raise ValueError(f"{target.name}: sha256 is {whole.hexdigest()[:16]}..., expected {expected_sha256[:16]}...")


def main() -> None:
    base = load_params()["base"]
    asked = [name for name in dict.fromkeys([base["model"], base["reference"]]) if name in MADE]
    for name in asked:
        MADE[name](MODEL / name)
    MODEL.mkdir(parents=True, exist_ok=True)
    print(f"made {', '.join(asked) or 'nothing'} in data/model/")


def make_gemma(folder: Path) -> None:
    """Gemma 3 270M from the parts of its wheel."""
    parts = sorted((RAW / "gemma").glob("part*"))
    gguf = RAW / "gemma" / "joined.gguf"
    join_parts(parts, gguf, (RAW / "gemma" / "SHA256SUMS").read_text().split()[0])
    convert_gguf(gguf, folder)
    gguf.unlink()


def make_smollm2(folder: Path) -> None:
    """SmolLM2 135M Instruct from its wheel."""
    convert_gguf(RAW / "smollm2" / "smollm2-135m-instruct.gguf", folder)


MADE = {"gemma-3-270m": make_gemma, "smollm2-135m-instruct": make_smollm2}  # models that the fetched wheels carry


if __name__ == "__main__":
    main()
