"""Model folders with seeded random weights in the shapes of well-known models, for measuring speed without downloading any.

    python3 bench/gpu/models.py bert-base FOLDER [--dtype float16] [--fp8 --device cuda]
    python3 bench/gpu/models.py --list

A folder is as sentence-transformers keeps one: config.json, model.safetensors, modules.json, 1_Pooling, and a tokenizer.json that
makes words of letters (token batches are what is measured). Weights are normal with a standard deviation that keeps activations
sane, norms lie round 1. --fp8 adds bei-fp8.json: the largest absolute input of every linear layer over seeded token batches, which
the TensorRT engine's dtype float8 takes its scales from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import struct
import sys

import batches

BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
QWEN3 = {
    "architectures": ["Qwen3Model"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "max_position_embeddings": 32768,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": None,
    "use_cache": False,
}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 320}
SHAPES = {
    "bert-base": BERT
    | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522},
    "qwen3-0.6b": QWEN3
    | {
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 3072, "vocab_size": 151669,
    },
    "tiny-bert": BERT | TINY,
    "tiny-qwen3": QWEN3 | TINY | {"num_key_value_heads": 2, "head_dim": 32},
}  # fmt: skip
# fp16 is what embedding servers run BERT in; Qwen3 is published, and run, in bf16.
HALF = {"bert": "float16", "qwen3": "bfloat16"}
POOLING = {"bert": "mean", "qwen3": "lasttoken"}
SEED = 20261124
STD = 0.02
QUERY_KEY_STD = 0.04  # of BERT: scores spread enough for attention to matter
NORM_SPREAD = 0.1
CALIBRATION = ["mixed32", "8x512", "16x128"]  # about 19,000 tokens


def weight_shapes(config: dict) -> dict[str, tuple[list[int], float, float]]:
    """Shape, mean and standard deviation of every tensor, by the name that transformers has."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {}

    def linear(name: str, out: int, into: int, bias: bool, std: float = STD) -> None:
        shapes[f"{name}.weight"] = ([out, into], 0, std)
        if bias:
            shapes[f"{name}.bias"] = ([out], 0, STD)

    def norm(name: str, width: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = ([width], 1, NORM_SPREAD)
        if bias:
            shapes[f"{name}.bias"] = ([width], 0, STD)

    if config["model_type"] == "bert":
        for table, rows in (("word", "vocab_size"), ("position", "max_position_embeddings"), ("token_type", "type_vocab_size")):
            shapes[f"embeddings.{table}_embeddings.weight"] = ([config[rows], hidden], 0, STD)
        norm("embeddings.LayerNorm", hidden, True)
        for i in range(config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}"
            linear(f"{layer}.attention.self.query", hidden, hidden, True, QUERY_KEY_STD)
            linear(f"{layer}.attention.self.key", hidden, hidden, True, QUERY_KEY_STD)
            linear(f"{layer}.attention.self.value", hidden, hidden, True)
            linear(f"{layer}.attention.output.dense", hidden, hidden, True)
            norm(f"{layer}.attention.output.LayerNorm", hidden, True)
            linear(f"{layer}.intermediate.dense", inner, hidden, True)
            linear(f"{layer}.output.dense", hidden, inner, True)
            norm(f"{layer}.output.LayerNorm", hidden, True)
        return shapes
    head = config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes["embed_tokens.weight"] = ([config["vocab_size"], hidden], 0, STD)
    for i in range(config["num_hidden_layers"]):
        layer = f"layers.{i}"
        norm(f"{layer}.input_layernorm", hidden, False)
        for name, out in (("q", query), ("k", key), ("v", key)):
            linear(f"{layer}.self_attn.{name}_proj", out, hidden, False)
        linear(f"{layer}.self_attn.o_proj", hidden, query, False)
        norm(f"{layer}.self_attn.q_norm", head, False)
        norm(f"{layer}.self_attn.k_norm", head, False)
        norm(f"{layer}.post_attention_layernorm", hidden, False)
        linear(f"{layer}.mlp.gate_proj", inner, hidden, False)
        linear(f"{layer}.mlp.up_proj", inner, hidden, False)
        linear(f"{layer}.mlp.down_proj", hidden, inner, False)
    norm("norm", hidden, False)
    return shapes


def flops(config: dict, lengths: list[int]) -> float:
    """Operations of a forward pass: 2 for each weight of a linear layer and token, and 4 x width for each pair of tokens that
    attention looks at (half the pairs where it is causal)."""
    linear = sum(
        shape[0] * shape[1]
        for name, (shape, _, _) in weight_shapes(config).items()
        if len(shape) == 2 and "embed" not in name
    )
    width = config["num_attention_heads"] * config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    causal = config["model_type"] == "qwen3"
    pairs = sum(n * (n + 1) // 2 if causal else n * n for n in lengths)
    return 2 * linear * sum(lengths) + 4 * config["num_hidden_layers"] * width * pairs


def tokenizer() -> dict:
    """tokenizer.json of single words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": word} | special for i, word in enumerate(words[:4])],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "[UNK]"},
    }  # fmt: skip


def write_json(path: pathlib.Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write(shape: str, folder: pathlib.Path, dtype: str | None = None) -> None:
    """Writes the folder; its weights come last, by rename, so that a folder that has them is whole."""
    import safetensors.torch
    import torch

    config = SHAPES[shape]
    dtype = dtype or HALF[config["model_type"]]
    write_json(folder / "config.json", config | {"dtype": dtype, "torch_dtype": dtype})
    write_json(folder / "tokenizer.json", tokenizer())
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]"})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(modules)],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    poolings = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": config["hidden_size"]}
        | {f"pooling_mode_{key}": name == POOLING[config["model_type"]] for name, key in poolings.items()},
    )
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for name, (size, mean, std) in weight_shapes(config).items():
        tensors[name] = torch.empty(size).normal_(mean, std, generator=generator).to(getattr(torch, dtype))
    unfinished = folder / "model.safetensors.new"
    safetensors.torch.save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.rename(folder / "model.safetensors")


def fingerprint(folder: pathlib.Path) -> str:
    """weights.Set.Fingerprint of backend/weights, for a folder with one model.safetensors: a SHA-256 of its name, header and
    size, and of 4 KiB in the middle of each tensor in the order of the header."""
    digest = hashlib.sha256()

    def frame(part: bytes) -> None:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)

    path = folder / "model.safetensors"
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = file.read(size)
        frame(path.name.encode())
        frame(header)
        frame(struct.pack("<Q", path.stat().st_size))
        spans = [entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"]
        for begin, end in spans:
            count = min(end - begin, 4096)
            file.seek(8 + size + begin + (end - begin - count) // 2)
            frame(file.read(count))
    return digest.hexdigest()


def linear_inputs(config: dict) -> dict[str, tuple[str, str]]:
    """For each linear layer of bei-fp8.json: its module in transformers (one that has the same input stands for all)."""
    names = {}
    for i in range(config["num_hidden_layers"]):
        if config["model_type"] == "bert":
            layer, paths = f"encoder.layer.{i}", ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
        else:
            layer, paths = f"layers.{i}", ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
        for ours, theirs in zip(("attention.qkv", "attention.out", "mlp.up", "mlp.down"), paths):
            names[f"layers.{i}.{ours}"] = f"{layer}.{theirs}"
    return names


def calibrate(folder: pathlib.Path, device: str, names: list[str]) -> dict:
    """Runs batches through transformers in fp32 and writes bei-fp8.json."""
    import torch

    import torch_worker

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = torch_worker.load(folder, "float32", device)
    largest = {}

    def watch(name: str):
        def hook(_module, arguments, _output=None):
            value = arguments[0].detach().abs().amax().item()
            largest[name] = max(largest.get(name, 0.0), value)

        return hook

    for name, module in linear_inputs(config).items():
        model.get_submodule(module).register_forward_pre_hook(watch(name))
    texts = tokens = 0
    with torch.inference_mode():
        for name in names:
            for sequence in batches.sequences(name, config["vocab_size"]):
                model(input_ids=torch.tensor([sequence], device=device))
                texts, tokens = texts + 1, tokens + len(sequence)
    content = {"format": "bei-fp8", "version": 1, "weights_fingerprint": fingerprint(folder), "texts": texts, "tokens": tokens, "amax": largest}
    write_json(folder / "bei-fp8.json", content)
    return content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="?", choices=SHAPES, help="the shape to write")
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="where to write it; a folder that has weights is left as it is")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights (default: float16 for BERT, bfloat16 for Qwen3)")
    parser.add_argument("--fp8", action="store_true", help="write bei-fp8.json as well")
    parser.add_argument("--device", default="cuda", help="where --fp8 runs the model (default: cuda)")
    parser.add_argument("--calibration", default=",".join(CALIBRATION), metavar="BATCHES", help="batches that --fp8 runs (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="list the shapes and end")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(SHAPES))
        return 0
    if arguments.folder is None:
        parser.error("it takes a shape and a folder")
    try:
        if not (arguments.folder / "model.safetensors").exists():
            write(arguments.shape, arguments.folder, arguments.dtype)
        if arguments.fp8:
            calibrate(arguments.folder, arguments.device, arguments.calibration.split(","))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
