"""How the folder of a spec is written: config.json, the tokenizer, the sentence-transformers files and the weights."""

import json
import pathlib
import shutil

import safetensors.torch
import torch

from spec import CLASSIC, NEW, LayerNorm, Spec, random_tensor

TYPES = {
    CLASSIC: {
        "Transformer": "sentence_transformers.models.Transformer",
        "Pooling": "sentence_transformers.models.Pooling",
        "Dense": "sentence_transformers.models.Dense",
        "LayerNorm": "sentence_transformers.models.LayerNorm",
        "Normalize": "sentence_transformers.models.Normalize",
        "MLMTransformer": "sentence_transformers.sparse_encoder.models.MLMTransformer.MLMTransformer",
        "SpladePooling": "sentence_transformers.sparse_encoder.models.SpladePooling.SpladePooling",
    },
    NEW: {
        "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
        "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        "Dense": "sentence_transformers.base.modules.dense.Dense",
        "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    },
}
POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def write_json(path: pathlib.Path, content: dict | list) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_config(spec: Spec) -> None:
    config = spec.config()
    if spec.labels:
        config["id2label"] = {str(i): label for i, label in enumerate(spec.labels)}
        config["label2id"] = {label: i for i, label in enumerate(spec.labels)}
    write_json(spec.folder / "config.json", config | spec.more)
    (spec.folder / "tokenizer.json").write_text(spec.tokenizer_json(), encoding="utf-8")
    tokenizer_config = spec.tokenizer_config()
    if spec.files == NEW or not spec.pooling or not spec.is_embedding:
        tokenizer_config["model_max_length"] = spec.max_seq_length
    write_json(spec.folder / "tokenizer_config.json", tokenizer_config)


def write_modules(spec: Spec) -> None:
    """The sentence-transformers files, in the old form or the one that version 6 writes."""
    width = spec.hidden * len(spec.pooling)
    names = [("Transformer", ""), ("Pooling", "1_Pooling")]
    if spec.files == NEW:
        write_json(spec.folder / "1_Pooling/config.json", {"embedding_dimension": spec.hidden, "pooling_mode": spec.pooling[0], "include_prompt": True})
        write_json(spec.folder / "sentence_bert_config.json", {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        })
    else:
        pooling = {"word_embedding_dimension": spec.hidden} | {key: mode in spec.pooling for mode, key in POOLING_KEYS.items()}
        write_json(spec.folder / "1_Pooling/config.json", pooling)
        write_json(spec.folder / "sentence_bert_config.json", {"max_seq_length": spec.max_seq_length, "do_lower_case": False})
    for i, dense in enumerate(spec.dense, start=2):
        if isinstance(dense, LayerNorm):
            folder = f"{i}_LayerNorm"
            names.append(("LayerNorm", folder))
            write_json(spec.folder / folder / "config.json", {"dimension": width})
            shapes = {"norm.weight": (width,), "norm.bias": (width,)}
        else:
            folder = f"{i}_Dense"
            names.append(("Dense", folder))
            write_json(spec.folder / folder / "config.json", {
                "in_features": width, "out_features": dense.out_features, "bias": dense.bias, "activation_function": dense.activation,
            })
            shapes = {"linear.weight": (dense.out_features, width)} | ({"linear.bias": (dense.out_features,)} if dense.bias else {})
            width = dense.out_features
        tensors = {name: random_tensor(f"{spec.name}/{folder}/{name}", torch.Size(shape)) for name, shape in shapes.items()}
        safetensors.torch.save_file(tensors, spec.folder / folder / "model.safetensors", {"format": "pt"})
    if spec.normalize:
        names.append(("Normalize", f"{len(names)}_Normalize"))
    write_pipeline(spec, names)
    if spec.prompts:
        write_json(spec.folder / "config_sentence_transformers.json", {
            "__version__": {"sentence_transformers": "6.2.0"}, "prompts": spec.prompts,
            "default_prompt_name": spec.default_prompt, "similarity_fn_name": "cosine",
        })


def write_pipeline(spec: Spec, names: list[tuple[str, str]]) -> None:
    types = dict(TYPES[spec.files])
    types["Transformer"] = spec.transformer_type or types["Transformer"]
    write_json(spec.folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": types[kind]} for i, (kind, path) in enumerate(names)
    ])


def write_splade(spec: Spec) -> None:
    """The files of a SparseEncoder, in the old form."""
    write_json(spec.folder / "1_SpladePooling/config.json", {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": spec.vocab_size})
    write_json(spec.folder / "sentence_bert_config.json", {"max_seq_length": spec.max_seq_length, "do_lower_case": False})
    write_json(spec.folder / "config_sentence_transformers.json", {
        "model_type": "SparseEncoder", "__version__": {"sentence_transformers": "5.0.0"}, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot",
    })
    write_pipeline(spec, [("MLMTransformer", ""), ("SpladePooling", "1_SpladePooling")])


def write_weights(spec: Spec) -> None:
    tensors = spec.stored({name: spec.value(name, p.shape).to(spec.dtype) for name, p in spec.module().named_parameters()})
    if spec.shards == 1:
        safetensors.torch.save_file(tensors, spec.folder / "model.safetensors", {"format": "pt"})
        return
    weight_map, names = {}, sorted(tensors)
    for i in range(spec.shards):
        file = f"model-{i + 1:05}-of-{spec.shards:05}.safetensors"
        part = names[i :: spec.shards]
        safetensors.torch.save_file({name: tensors[name] for name in part}, spec.folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(spec.folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def write_folder(spec: Spec) -> None:
    shutil.rmtree(spec.folder, ignore_errors=True)
    spec.folder.mkdir()
    write_config(spec)
    if spec.is_embedding and spec.pooling:
        write_modules(spec)
    if spec.splade:
        write_splade(spec)
    for name, content in spec.extra_files().items():
        if isinstance(content, str):
            (spec.folder / name).write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            (spec.folder / name).write_bytes(content)
        else:
            write_json(spec.folder / name, content)
    write_weights(spec)
