"""The tiny models: what each is, and how its folder is written. generate.py computes their golden vectors.

Widths are awkward on purpose (head sizes 7, 18, 20, eps up to 0.01, weights of size one), so that a wrong activation, eps,
pooling, scale or name moves the results visibly. The exception is qwen3-multiples-of-16, for products in FP8.
"""

import dataclasses
import json
import pathlib
import shutil
import zlib

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZERS = HERE.parent / "tokenizer"
CLASSIC, NEW = "classic", "6.x"  # how sentence-transformers wrote its files before and since version 6
TYPES = {
    CLASSIC: {
        "Transformer": "sentence_transformers.models.Transformer",
        "Pooling": "sentence_transformers.models.Pooling",
        "Dense": "sentence_transformers.models.Dense",
        "Normalize": "sentence_transformers.models.Normalize",
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


@dataclasses.dataclass(frozen=True)
class Dense:
    out_features: int
    activation: str = "torch.nn.modules.activation.Tanh"
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class Spec:
    """One folder. task: a transformers class; pooling, dense, normalize and prompts are for embedding models only."""

    name: str
    hidden: int
    heads: int
    intermediate: int
    layers: int = 2
    act: str = "gelu"
    eps: float = 1e-12
    positions: int = 40
    max_seq_length: int | None = 24
    task: str = "BertModel"
    labels: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[Dense, ...] = ()
    normalize: bool = True
    prompts: dict = dataclasses.field(default_factory=dict)
    default_prompt: str | None = None
    files: str = CLASSIC
    dtype: torch.dtype = torch.float32
    prefix: bool = False  # BertModel's names begin with "bert.", as checkpoints of models with a head do
    gamma_beta: bool = False  # LayerNorm.gamma and .beta, as in checkpoints that came from TensorFlow
    shards: int = 1

    @property
    def folder(self) -> pathlib.Path:
        return HERE / self.name

    @property
    def is_embedding(self) -> bool:
        return self.task == "BertModel"

    @property
    def tokenizer(self) -> pathlib.Path:
        return TOKENIZERS / "bert" / "tokenizer.json"

    @property
    def vocab_size(self) -> int:
        return 320

    @property
    def types(self) -> int:
        return 2


@dataclasses.dataclass(frozen=True)
class Qwen3(Spec):
    """A Qwen3 as an embedding model. more: what config.json has beside the sizes. pooling (): no sentence-transformers files."""

    kv_heads: int = 1
    head_dim: int = 8
    act: str = "silu"
    eps: float = 1e-2
    task: str = "Qwen3Model"
    prefix: bool = False  # the names begin with "model.", as those of Qwen3ForCausalLM do
    more: dict = dataclasses.field(default_factory=dict)

    @property
    def is_embedding(self) -> bool:
        return True

    @property
    def tokenizer(self) -> pathlib.Path:
        return TOKENIZERS / "qwen" / "tokenizer.json"

    @property
    def vocab_size(self) -> int:
        return 402

    @property
    def types(self) -> int:
        return 1


SPECS = (
    Spec("bert-mean", hidden=60, heads=3, intermediate=72, eps=1e-5),
    Spec("bert-cls-dense", hidden=32, heads=4, intermediate=40, act="gelu_new", pooling=("cls",), dense=(Dense(24),)),
    Spec("bert-sqrt", hidden=36, heads=2, intermediate=50, act="relu", eps=1e-2, pooling=("mean_sqrt_len_tokens",), normalize=False, prefix=True, gamma_beta=True),
    Spec("bert-max-sharded", hidden=24, heads=3, intermediate=33, layers=3, pooling=("max",), normalize=False, shards=3),
    Spec("bert-weightedmean-f16", hidden=40, heads=5, intermediate=64, pooling=("weightedmean",), dtype=torch.float16),
    Spec("bert-lasttoken-bf16", hidden=40, heads=2, intermediate=44, act="gelu_pytorch_tanh", pooling=("lasttoken",), dtype=torch.bfloat16, max_seq_length=None),
    Spec("bert-one-head", hidden=28, heads=1, intermediate=20, layers=1, act="silu", eps=1e-3),
    Spec("bert-joined-dense", hidden=21, heads=3, intermediate=30, act="quick_gelu", pooling=("cls", "mean"), dense=(Dense(30, bias=False), Dense(10, "torch.nn.modules.linear.Identity")), normalize=False),
    Spec("bert-prompts-new-files", hidden=32, heads=4, intermediate=48, prompts={"query": "Where is: ", "document": ""}, default_prompt="query", files=NEW),
    Spec("bert-classifier", hidden=24, heads=3, intermediate=32, task="BertForSequenceClassification", labels=("negative", "positive")),
    Spec("bert-reranker", hidden=24, heads=2, intermediate=32, task="BertForSequenceClassification", labels=("LABEL_0",)),
    Spec("bert-token-classifier", hidden=24, heads=2, intermediate=32, task="BertForTokenClassification", labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
    Spec("bert-masked-lm", hidden=20, heads=2, intermediate=28, task="BertForMaskedLM"),
    # As Qwen3-Embedding is: a language model's class, without its head and without its prefix.
    Qwen3("qwen3-lasttoken", hidden=40, heads=6, kv_heads=2, head_dim=10, intermediate=52, task="Qwen3ForCausalLM", pooling=("lasttoken",), prompts={"query": "Where is: ", "document": ""}, more={"rope_theta": 5000, "rope_scaling": None, "sliding_window": None, "max_window_layers": 2, "tie_word_embeddings": True}),
    Qwen3("qwen3-bidirectional", hidden=36, heads=3, kv_heads=3, head_dim=14, intermediate=41, eps=1e-3, files=NEW, more={"is_causal": False, "use_bidirectional_attention": True, "rope_theta": 100.5}),
    Qwen3("qwen3-sliding-window", hidden=28, heads=4, kv_heads=1, head_dim=6, intermediate=30, layers=3, task="Qwen3ForCausalLM", prefix=True, pooling=("weightedmean",), normalize=False, more={"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "rope_theta": 300}),
    Qwen3("qwen3-bidirectional-window", hidden=20, heads=2, intermediate=24, dtype=torch.float16, more={"is_causal": False, "use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    Qwen3("qwen3-bf16-bias", hidden=24, heads=5, kv_heads=5, head_dim=12, intermediate=33, dtype=torch.bfloat16, pooling=("lasttoken", "mean"), dense=(Dense(17),), prefix=True, shards=2, more={"rope_parameters": {"rope_type": "default", "rope_theta": 2000.0}, "attention_bias": True}),
    Qwen3("qwen3-multiples-of-16", hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, dtype=torch.bfloat16, eps=1e-6, pooling=("lasttoken",), more={"rope_theta": 1000000}),
    Qwen3("qwen3-plain-folder", hidden=20, heads=2, intermediate=24, layers=1, task="Qwen3ForCausalLM", dtype=torch.bfloat16, prefix=True, pooling=(), normalize=False),
    Qwen3("qwen3-rope-linear", hidden=20, heads=2, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_theta": 100, "rope_scaling": {"type": "linear", "factor": 2.5}}),
    Qwen3("qwen3-rope-llama3", hidden=20, heads=2, head_dim=16, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_parameters": {"rope_theta": 100, "rope_type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 30}}),
    Qwen3("qwen3-rope-yarn", hidden=20, heads=2, head_dim=16, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_theta": 100, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 3, "original_max_position_embeddings": 30}}),
)


def random_tensor(key: str, shape: torch.Size) -> torch.Tensor:
    """Values seeded by the tensor's own key, so that adding a model or a tensor changes no other."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if "LayerNorm" in key or "norm.weight" in key:
        return 1 + 0.3 * noise if key.endswith("weight") else 0.3 * noise
    if key.endswith("bias"):
        return 0.3 * noise
    if "embeddings" in key or "embed_tokens" in key:
        return 0.7 * noise
    return 1.3 * noise / shape[-1] ** 0.5


def stored_name(spec: Spec, name: str) -> str:
    if spec.prefix:
        name = ("model." if isinstance(spec, Qwen3) else "bert.") + name
    if spec.gamma_beta:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return name


def write_json(path: pathlib.Path, content: dict | list) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_config(spec: Spec) -> None:
    if isinstance(spec, Qwen3):
        write_qwen3_config(spec)
        return
    config = {
        "architectures": [spec.task],
        "model_type": "bert",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.intermediate,
        "hidden_act": spec.act,
        "layer_norm_eps": spec.eps,
        "max_position_embeddings": spec.positions,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": str(spec.dtype).removeprefix("torch."),
    }
    if spec.labels:
        config["id2label"] = {str(i): label for i, label in enumerate(spec.labels)}
        config["label2id"] = {label: i for i, label in enumerate(spec.labels)}
    write_json(spec.folder / "config.json", config)
    shutil.copyfile(spec.tokenizer, spec.folder / "tokenizer.json")
    tokenizer_config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    tokenizer_config |= {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    if spec.files == NEW or spec.task != "BertModel":
        tokenizer_config["model_max_length"] = spec.max_seq_length
    write_json(spec.folder / "tokenizer_config.json", tokenizer_config)


def write_qwen3_config(spec: Qwen3) -> None:
    write_json(spec.folder / "config.json", {
        "architectures": [spec.task],
        "model_type": "qwen3",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.intermediate,
        "hidden_act": spec.act,
        "rms_norm_eps": spec.eps,
        "max_position_embeddings": spec.positions,
        "dtype": str(spec.dtype).removeprefix("torch."),
    } | spec.more)
    shutil.copyfile(spec.tokenizer, spec.folder / "tokenizer.json")
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"], "padding_side": "left"}
    tokenizer_config |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    if spec.files == NEW or not spec.pooling:
        tokenizer_config["model_max_length"] = spec.max_seq_length
    write_json(spec.folder / "tokenizer_config.json", tokenizer_config)


def write_modules(spec: Spec) -> None:
    """The sentence-transformers files, in the old form or the one that version 6 writes."""
    types, width = TYPES[spec.files], spec.hidden * len(spec.pooling)
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
        folder = f"{i}_Dense"
        names.append(("Dense", folder))
        write_json(spec.folder / folder / "config.json", {
            "in_features": width, "out_features": dense.out_features, "bias": dense.bias, "activation_function": dense.activation,
        })
        shapes = {"linear.weight": (dense.out_features, width)} | ({"linear.bias": (dense.out_features,)} if dense.bias else {})
        tensors = {name: random_tensor(f"{spec.name}/{folder}/{name}", torch.Size(shape)) for name, shape in shapes.items()}
        safetensors.torch.save_file(tensors, spec.folder / folder / "model.safetensors", {"format": "pt"})
        width = dense.out_features
    if spec.normalize:
        names.append(("Normalize", f"{len(names)}_Normalize"))
    write_json(spec.folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": types[kind]} for i, (kind, path) in enumerate(names)
    ])
    if spec.prompts:
        write_json(spec.folder / "config_sentence_transformers.json", {
            "__version__": {"sentence_transformers": "6.2.0"}, "prompts": spec.prompts,
            "default_prompt_name": spec.default_prompt, "similarity_fn_name": "cosine",
        })


def write_weights(spec: Spec) -> None:
    """Every tensor of the transformers class, in spec.dtype, and the int64 buffer that old checkpoints carry."""
    config = transformers.AutoConfig.from_pretrained(spec.folder)
    parameters = getattr(transformers, "Qwen3Model" if isinstance(spec, Qwen3) else spec.task)(config).named_parameters()
    tensors = {stored_name(spec, name): random_tensor(f"{spec.name}/{name}", p.shape).to(spec.dtype) for name, p in parameters}
    if not isinstance(spec, Qwen3):
        base = "" if spec.task == "BertModel" else "bert."
        tensors[stored_name(spec, base + "embeddings.position_ids")] = torch.arange(spec.positions).unsqueeze(0)
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
    write_weights(spec)
