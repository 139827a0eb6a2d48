"""BERT's descendants: RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, MPNet, DeBERTa v2, each with every head that transformers has for it."""

import dataclasses
import io
import pathlib

import torch

from bert import Bert
from spec import MASKED, SEQUENCE, TOKEN, TOKENIZERS, Dense, LayerNorm, Spec, positions_after, random_tensor

CLASSES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert", "distilbert": "DistilBert", "mpnet": "MPNet", "deberta-v2": "DebertaV2"}
PADDED = ("the <pad> dog<pad><pad>", "<pad>")
ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@dataclasses.dataclass(frozen=True)
class Encoder(Bert):
    """A model of one of CLASSES. head: the end of the class's name; tokenizer_name: a folder of testdata/tokenizer whose special tokens are RoBERTa's, or bert's."""

    family: str = "roberta"
    head: str = "Model"
    task: str = ""
    tokenizer_name: str = "roberta"
    pad: int = 1
    counts_from_pad: bool = True  # positions count from pad + 1, and padding, which a text may name, does not count
    takes_types: bool = True  # the forward has token_type_ids

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", CLASSES[self.family] + self.head)

    @property
    def tokenizer(self) -> pathlib.Path:
        return TOKENIZERS / self.tokenizer_name / "tokenizer.json"

    @property
    def vocab_size(self) -> int:
        return {"bert": 320, "roberta": 400, "roberta_prefix": 400, "unigram": 163}[self.tokenizer_name]

    def position_ids(self, input_ids: list[int]) -> list[int]:
        if not self.counts_from_pad:
            return super().position_ids(input_ids)
        return positions_after(self.pad, input_ids)

    def config(self) -> dict:
        return super().config() | {"model_type": self.family, "pad_token_id": self.pad, "bos_token_id": 0, "eos_token_id": 2}

    def tokenizer_config(self) -> dict:
        if self.tokenizer_name == "bert":
            return super().tokenizer_config() | {"tokenizer_class": "PreTrainedTokenizerFast"}
        special = {f"{name}_token": f"<{name}>" for name in ("unk", "pad", "mask")}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"} | special

    def inputs(self, item: dict) -> dict[str, torch.Tensor]:
        inputs = super().inputs(item)
        return inputs if self.takes_types else {key: value for key, value in inputs.items() if key != "token_type_ids"}

    def value(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Lookup tables of attention are as large as other embeddings: a wrong bucket must be seen."""
        if "relative_attention_bias" in name:
            return super().value(name, shape) * shape[-1] ** 0.5
        return super().value(name, shape)

    def stored_name(self, name: str) -> str:
        """Two of the classes for masked LM list the word table by its other name; files have it by this one."""
        if self.family in ("camembert", "xlm-roberta") and name == "lm_head.decoder.weight":
            name = "roberta.embeddings.word_embeddings.weight"
        return super().stored_name(name)

    def stored(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return Spec.stored(self, parameters)


@dataclasses.dataclass(frozen=True)
class DistilBert(Encoder):
    family: str = "distilbert"
    tokenizer_name: str = "bert"
    types: int = 1
    takes_types: bool = False
    pad: int = 0
    counts_from_pad: bool = False

    def config(self) -> dict:
        return {
            "architectures": [self.task],
            "model_type": "distilbert",
            "vocab_size": self.vocab_size,
            "dim": self.hidden,
            "n_layers": self.layers,
            "n_heads": self.heads,
            "hidden_dim": self.intermediate,
            "activation": self.act,
            "max_position_embeddings": self.positions,
            "sinusoidal_pos_embds": False,
            "pad_token_id": self.pad,
            "torch_dtype": str(self.dtype).removeprefix("torch."),
        }


@dataclasses.dataclass(frozen=True)
class MPNet(Encoder):
    family: str = "mpnet"
    types: int = 1
    takes_types: bool = False

    def config(self) -> dict:
        config = super().config() | {"relative_attention_num_buckets": 32}
        del config["type_vocab_size"], config["position_embedding_type"]
        return config


@dataclasses.dataclass(frozen=True)
class Deberta(Encoder):
    """more says how it differs from v3, whose layout this is: disentangled attention both ways, distances in logarithmic steps, no table of positions."""

    family: str = "deberta-v2"
    tokenizer_name: str = "bert"
    types: int = 1  # 1: there is no table of them
    pad: int = 0
    counts_from_pad: bool = False

    def config(self) -> dict:
        config = super().config() | {
            "type_vocab_size": 0 if self.types == 1 else self.types,
            "relative_attention": True,
            "position_buckets": 7,
            "max_relative_positions": 20,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
        }
        del config["position_embedding_type"]
        return config


@dataclasses.dataclass(frozen=True)
class BGEM3(Encoder):
    """bge-m3 as it is published: the heads lie beside the model, as torch saves them, and only FlagEmbedding knows them."""

    family: str = "xlm-roberta"
    tokenizer_name: str = "unigram"
    types: int = 1
    pooling: tuple[str, ...] = ("cls",)
    columns: int = 14  # of a token vector

    def token_heads(self) -> dict[str, dict[str, torch.Tensor]]:
        """float16, as bge-m3's are."""
        rows = {"colbert_linear": self.columns, "sparse_linear": 1}
        return {name: {
            "weight": random_tensor(f"{self.name}/{name}.weight", torch.Size((n, self.hidden))).half(),
            "bias": random_tensor(f"{self.name}/{name}.bias", torch.Size((n,))).half(),
        } for name, n in rows.items()}

    def extra_files(self) -> dict[str, bytes]:
        files = {}
        for name, tensors in self.token_heads().items():
            linear = torch.nn.Linear(*reversed(tensors["weight"].shape), dtype=torch.half)
            linear.load_state_dict(tensors)
            file = io.BytesIO()
            torch.save(linear.state_dict(), file)
            files[name + ".pt"] = file.getvalue()
        return files

    def token_rows(self, hidden: torch.Tensor) -> torch.Tensor:
        maps = [{name: tensor.to(hidden.dtype) for name, tensor in head.items()} for head in self.token_heads().values()]
        return torch.cat([torch.nn.functional.linear(hidden, head["weight"], head["bias"]) for head in maps], dim=-1)

    def token_results(self, item: dict, rows: torch.Tensor) -> dict:
        """As FlagEmbedding's inference/embedder/encoder_only/m3.py: _process_token_weights and _process_colbert_vecs."""
        weights, unused = {}, (0, 1, 2, 3)  # <s>, <pad>, </s>, <unk>
        for token, weight in zip(item["input_ids"], torch.relu(rows[:, -1]).tolist()):
            if token not in unused and weight > 0:
                weights[token] = max(weight, weights.get(token, 0))
        vectors = torch.nn.functional.normalize(rows[1:, :-1], dim=-1)
        return {"sparse": {str(token): float(f"{weight:.9g}") for token, weight in sorted(weights.items())}, "colbert": vectors.numpy()}


def heads(spec: type[Encoder], prefix: str, **sizes) -> tuple[Encoder, ...]:
    """The classifier, the reranker, the token classifier and the masked-LM model of a family."""
    return (
        spec(f"{prefix}-classifier", head=SEQUENCE, labels=("negative", "neutral", "positive"), **sizes),
        spec(f"{prefix}-reranker", head=SEQUENCE, labels=("LABEL_0",), **sizes),
        spec(f"{prefix}-token-classifier", head=TOKEN, labels=ENTITIES, **sizes),
        spec(f"{prefix}-masked-lm", head=MASKED, vector_items=(1,), **sizes),
    )


SPECS = (
    Encoder("roberta-mean", dtype=torch.float32, hidden=28, heads=4, intermediate=34, eps=1e-3, types=1, prefix="roberta.", texts=PADDED, spans=True),
    Encoder("roberta-cls-dense", hidden=30, heads=3, intermediate=41, act="relu", pad=4, positions=34, max_seq_length=20, pooling=("cls",), dense=(Dense(17),), dtype=torch.float16),
    *heads(Encoder, "roberta", hidden=21, heads=3, intermediate=26, act="gelu_new", eps=1e-2),
    Encoder("xlm-roberta-cls", dtype=torch.float32, family="xlm-roberta", tokenizer_name="unigram", hidden=35, heads=5, intermediate=35, eps=1e-5, types=1, pooling=("cls",), gamma_beta=True, texts=PADDED, spans=True),
    *heads(Encoder, "xlm-roberta", family="xlm-roberta", tokenizer_name="unigram", hidden=22, heads=2, intermediate=30, eps=1e-4, types=1),
    Encoder("camembert-max", dtype=torch.float32, family="camembert", tokenizer_name="unigram", hidden=27, heads=3, intermediate=40, layers=1, act="silu", eps=1e-5, types=1, pooling=("max",), normalize=False),
    *heads(Encoder, "camembert", family="camembert", tokenizer_name="unigram", hidden=20, heads=4, intermediate=24, act="gelu_pytorch_tanh", eps=1e-3, types=1),
    DistilBert("distilbert-mean", hidden=26, heads=2, intermediate=31, layers=3, prefix="distilbert."),
    DistilBert("distilbert-sqrt-bf16", hidden=24, heads=4, intermediate=40, act="relu", pooling=("mean_sqrt_len_tokens",), normalize=False, dtype=torch.bfloat16),
    *heads(DistilBert, "distilbert", hidden=26, heads=2, intermediate=30, act="gelu_new"),
    MPNet("mpnet-mean", dtype=torch.float32, hidden=24, heads=4, intermediate=31, eps=1e-3, positions=200, max_seq_length=198, texts=PADDED, lengths=(5, 60, 190)),
    MPNet("mpnet-lasttoken-prefix", hidden=21, heads=3, intermediate=32, act="silu", positions=60, pooling=("lasttoken",), prefix="mpnet.", gamma_beta=True),
    *heads(MPNet, "mpnet", hidden=20, heads=2, intermediate=26, eps=1e-4),
    Deberta("deberta-mean", dtype=torch.float32, hidden=30, heads=3, intermediate=35, eps=1e-3, max_seq_length=40, lengths=(5, 33)),
    # As v2 is: projections of distances of their own, a table of positions, token types; here one term, each distance by itself.
    Deberta("deberta-c2p-positions", hidden=25, heads=5, intermediate=37, act="relu", types=2, pooling=("cls",), prefix="deberta.", max_seq_length=40, lengths=(5, 33), more={"share_att_key": False, "norm_rel_ebd": "none", "pos_att_type": ["c2p"], "position_biased_input": True, "position_buckets": -1, "max_relative_positions": 9}),
    Deberta("deberta-p2c-own", hidden=28, heads=2, intermediate=33, layers=3, pooling=("weightedmean",), gamma_beta=True, dtype=torch.float16, max_seq_length=40, lengths=(5, 33), more={"share_att_key": False, "pos_att_type": "P2C", "position_buckets": 10, "max_relative_positions": -1}),
    Deberta("deberta-absolute", hidden=24, heads=3, intermediate=30, layers=1, max_seq_length=40, lengths=(5, 33), more={"relative_attention": False, "position_biased_input": True}),
    *heads(Deberta, "deberta", hidden=21, heads=3, intermediate=30, act="gelu_new", eps=1e-4),
    DistilBert("distilbert-splade", dtype=torch.float32, hidden=22, heads=2, intermediate=30, layers=1, head=MASKED, splade=True, vector_items=(1,)),
    BGEM3("bge-m3", dtype=torch.float32, hidden=26, heads=2, intermediate=31, eps=1e-5, texts=("the dog and the dog and the dog", *PADDED)),
    Encoder("xlm-roberta-layernorm", family="xlm-roberta", tokenizer_name="unigram", hidden=24, heads=3, intermediate=30, layers=1, pooling=("mean", "max"), dense=(LayerNorm(), Dense(20), LayerNorm(), Dense(18, "torch.nn.modules.linear.Identity", bias=False)), dimensions=7),
    Deberta("deberta-masked-lm-new", hidden=20, heads=2, intermediate=24, head=MASKED, vector_items=(1,), more={"legacy": False, "pooler_hidden_act": "relu"}),
    Deberta("deberta-classifier-tanh", hidden=20, heads=2, intermediate=24, layers=1, head=SEQUENCE, labels=("no", "yes"), more={"pooler_hidden_act": "tanh", "share_att_key": False}),
    Encoder("roberta-masked-lm-untied", hidden=18, heads=2, intermediate=24, layers=1, head=MASKED, vector_items=(1,), more={"tie_word_embeddings": False}),
)
