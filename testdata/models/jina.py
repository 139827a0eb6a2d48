"""Jina's models: jina-bert v2 in both forms of the hub's code, and v3 in transformers' format and in that of the hub's
xlm-roberta-flash-implementation, which jina-reranker-v2 has as well."""

import dataclasses
import math
import pathlib

import torch

from bert import Bert, Rotary
from encoders import PADDED
from hub import ACTIVATIONS, Hub, HubSpec, frequencies, rotation
from spec import TOKENIZERS, Spec, positions_after

GLU = {"geglu": "gelu", "reglu": "relu"}


def slopes(heads: int) -> list[float]:
    """ALiBi's (https://github.com/ofirpress/attention_with_linear_biases)."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return first if power == heads else first + slopes(2 * power)[0::2][: heads - power]


class JinaBertCode(Hub):
    """modeling_bert.py of jinaai/jina-bert-implementation."""

    prefix = "bert."

    def trunk(self, p, ids, kinds, positions):
        c = self.config
        x = self.table(f"{p}embeddings.word_embeddings", c["vocab_size"], ids)
        x = x + self.table(f"{p}embeddings.token_type_embeddings", c["type_vocab_size"], kinds)
        bias = 0.0
        if c["position_embedding_type"] == "alibi":
            place = torch.arange(len(ids))
            bias = (-torch.tensor(slopes(self.heads))[:, None, None] * (place[None] - place[:, None]).abs()).to(x.dtype)
        else:
            x = x + self.table(f"{p}embeddings.position_embeddings", c["max_position_embeddings"], positions)
        x = self.norm(x, f"{p}embeddings.LayerNorm")
        for i in range(c["num_hidden_layers"]):
            x = self.layer(x, f"{p}encoder.layer.{i}.", bias)
        return x

    def projections(self, x, p):
        return [self.linear(x, f"{p}attention.self.{name}", self.hidden) for name in ("query", "key", "value")]

    def attended(self, x, p, qkv, bias):
        y = self.linear(self.attention(*qkv, bias), f"{p}attention.output.dense", self.hidden)
        return self.norm(x + y, f"{p}attention.output.LayerNorm")

    def layer(self, x, p, bias):
        c, wide = self.config, self.config["intermediate_size"]
        x = self.attended(x, p, self.projections(x, p), bias)
        if c["feed_forward_type"] == "original":
            y = ACTIVATIONS[c["hidden_act"]](self.linear(x, f"{p}intermediate.dense", wide))
            return self.norm(x + self.linear(y, f"{p}output.dense", self.hidden), f"{p}output.LayerNorm")
        gate, up = self.linear(x, f"{p}mlp.gated_layers", 2 * wide, False).chunk(2, -1)
        y = self.linear(ACTIVATIONS[GLU[c["feed_forward_type"]]](gate) * up, f"{p}mlp.wo", self.hidden)
        return self.norm(x + y, f"{p}mlp.layernorm")

    def masked_lm(self, x, p):
        head, table = "cls.predictions.", self.weights[f"{p}embeddings.word_embeddings.weight"]
        act = ACTIVATIONS[self.config["hidden_act"]]
        x = self.norm(act(self.linear(x, f"{head}transform.dense", self.hidden)), f"{head}transform.LayerNorm")
        return x @ table.T + self.weight(f"{head}bias", len(table))


class JinaPostNormCode(JinaBertCode):
    """modeling_bert.py of jinaai/jina-bert-v2-qk-post-norm."""

    def layer(self, x, p, bias):
        c, wide = self.config, self.config["intermediate_size"]
        q, k, v = self.projections(x, p)
        q, k = self.norm(q, f"{p}attention.self.layer_norm_q"), self.norm(k, f"{p}attention.self.layer_norm_k")
        x = self.norm(x + self.attended(x, p, (q, k, v), bias), f"{p}layer_norm_1")
        if c["feed_forward_type"] == "original":
            y = ACTIVATIONS[c["hidden_act"]](self.linear(x, f"{p}mlp.up_layer", wide, False))
        else:
            up, gate = self.linear(x, f"{p}mlp.up_gated_layer", 2 * wide, False).chunk(2, -1)
            y = up * ACTIVATIONS[GLU[c["feed_forward_type"]]](gate)
        return self.norm(x + self.linear(y, f"{p}mlp.down_layer", self.hidden), f"{p}layer_norm_2")


@dataclasses.dataclass(frozen=True)
class JinaBert(HubSpec, Bert):
    code = JinaBertCode
    task: str = "JinaBertModel"
    eps: float = 1e-3
    feed_forward: str = "geglu"

    def config(self) -> dict:
        return super().config() | {"position_embedding_type": "alibi", "feed_forward_type": self.feed_forward, "emb_pooler": "mean"}

    def stored(self, parameters):
        return Spec.stored(self, parameters)


@dataclasses.dataclass(frozen=True)
class JinaPostNorm(JinaBert):
    code = JinaPostNormCode


@dataclasses.dataclass(frozen=True)
class JinaV3(Rotary):
    task: str = "JinaEmbeddingsV3Model"
    model_type: str = "jina_embeddings_v3"
    types: int = 1

    @property
    def tokenizer(self) -> pathlib.Path:
        return TOKENIZERS / "unigram" / "tokenizer.json"

    @property
    def vocab_size(self) -> int:
        return 163

    def config(self) -> dict:
        return super().config() | {"model_type": self.model_type, "pad_token_id": 1, "rope_theta": 110.0}

    @staticmethod
    def untied(name: str) -> str:
        """The table's name, which the head's map has in the module, but not where transformers saves it."""
        return name.replace("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight")

    def value(self, name: str, shape: torch.Size) -> torch.Tensor:
        return super().value(self.untied(name), shape)

    def stored_name(self, name: str) -> str:
        return super().stored_name(self.untied(name))

    def tokenizer_config(self) -> dict:
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "cls_token": "<s>", "pad_token": "<pad>", "mask_token": "<mask>"}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]} | special


class FlashCode(Hub):
    """modeling_xlm_roberta.py of jinaai/xlm-roberta-flash-implementation."""

    prefix, pooler = "roberta.", False

    def trunk(self, _, ids, kinds, positions):
        p, c, hidden = self.prefix, self.config, self.hidden
        x = self.table(f"{p}embeddings.word_embeddings", c["vocab_size"], ids)
        x = x + self.table(f"{p}embeddings.token_type_embeddings", c["type_vocab_size"], kinds)
        if c["position_embedding_type"] == "absolute":
            x = x + self.table(f"{p}embeddings.position_embeddings", c["max_position_embeddings"], positions)
            turn = lambda x: x  # noqa: E731
        else:
            turn = rotation(positions, frequencies(c["rotary_emb_base"], hidden // self.heads))
        x = self.norm(x, f"{p}emb_ln")
        for i in range(c["num_hidden_layers"]):
            layer = f"{p}encoder.layers.{i}."
            q, k, v = self.linear(x, f"{layer}mixer.Wqkv", 3 * hidden).chunk(3, -1)
            x = self.norm(x + self.linear(self.attention(q, k, v, turn=turn), f"{layer}mixer.out_proj", hidden), f"{layer}norm1")
            y = torch.nn.functional.gelu(self.linear(x, f"{layer}mlp.fc1", c["intermediate_size"]))
            x = self.norm(x + self.linear(y, f"{layer}mlp.fc2", hidden), f"{layer}norm2")
        return x

    def masked_lm(self, x, _):
        table = self.weights[f"{self.prefix}embeddings.word_embeddings.weight"]
        x = self.norm(torch.nn.functional.gelu(self.linear(x, "lm_head.dense", self.hidden)), "lm_head.layer_norm")
        return x @ table.T + self.weight("lm_head.bias", len(table))


@dataclasses.dataclass(frozen=True)
class Flash(HubSpec, JinaV3):
    """adapters: how many tasks have one. They have rank 2."""

    code = FlashCode
    task: str = "XLMRobertaModel"
    model_type: str = "xlm-roberta"
    position_type: str = "rotary"
    adapters: int = 0

    def position_ids(self, input_ids: list[int]) -> list[int]:
        return positions_after(1, input_ids) if self.position_type == "absolute" else super().position_ids(input_ids)

    @property
    def transformer_type(self) -> str | None:
        return "custom_st.Transformer" if self.adapters else None

    def config(self) -> dict:
        config = super().config() | {"position_embedding_type": self.position_type, "rotary_emb_base": 110.0, "emb_pooler": "mean", "use_flash_attn": True}
        if self.adapters:
            names = [f"task {i}" for i in range(self.adapters)]
            config |= {"lora_adaptations": names, "lora_rank": 2, "lora_alpha": 1, "task_instructions": dict.fromkeys(names, ""), "load_trained_adapters": True}
        return config

    def stored(self, parameters):
        """Maps and tables with adapters are torch's parametrizations: adapters are applied only to calls that name a task."""
        tensors = {}
        for name, tensor in super().stored(parameters).items():
            if not self.adapters or tensor.dim() == 1:
                tensors[name] = tensor
                continue
            rows, columns = tensor.shape[::-1] if "embeddings" in name else tensor.shape
            base = name.removesuffix("weight") + "parametrizations.weight."
            tensors[base + "original"] = tensor
            for part, shape in (("lora_A", (self.adapters, 2, columns)), ("lora_B", (self.adapters, rows, 2))):
                tensors[base + "0." + part] = torch.ones(shape, dtype=tensor.dtype)
        return tensors

    def file(self):
        return {name.replace("parametrizations.weight.original", "weight"): tensor for name, tensor in super().file().items() if ".lora_" not in name}

    def native(self):
        """jina_embeddings_v3 or, with a table of positions, XLM-RoBERTa, whose layers have BERT's names."""
        config = super().config()
        if self.position_type == "rotary":
            task = "JinaEmbeddingsV3" + self.task.removeprefix("XLMRoberta")
            weights = {(name.removeprefix("roberta.") if self.is_embedding else name): tensor for name, tensor in self.file().items()}
            return config | {"architectures": [task], "model_type": "jina_embeddings_v3"}, weights
        names = {
            "emb_ln": "embeddings.LayerNorm", "encoder.layers": "encoder.layer", "mixer.out_proj": "attention.output.dense", "norm1": "attention.output.LayerNorm",
            "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense", "norm2": "output.LayerNorm",
        }
        weights = {}
        for name, tensor in self.file().items():
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            if "mixer.Wqkv" not in name:
                weights[name] = tensor
                continue
            for part, third in zip(("query", "key", "value"), tensor.chunk(3)):
                weights[name.replace("mixer.Wqkv", f"attention.self.{part}")] = third
        return config, weights


SPECS = (
    JinaBert("jina-v2-mean", hidden=30, heads=3, intermediate=37),
    JinaBert("jina-v2-reglu", hidden=24, heads=6, intermediate=30, feed_forward="reglu", prefix="bert.", pooling=("cls",), dtype=torch.float16),
    JinaBert("jina-v2-original", dtype=torch.float32, hidden=20, heads=5, intermediate=26, layers=1, act="relu", feed_forward="original", normalize=False, more={"position_embedding_type": "absolute"}),
    JinaBert("jina-v2-reranker", hidden=20, heads=4, intermediate=24, task="JinaBertForSequenceClassification", labels=("LABEL_0",)),
    JinaBert("jina-v2-token-classifier", hidden=20, heads=2, intermediate=24, task="JinaBertForTokenClassification", labels=("O", "B", "I")),
    JinaBert("jina-v2-masked-lm", hidden=16, heads=1, intermediate=20, layers=1, act="relu", task="JinaBertForMaskedLM", vector_items=(1,)),
    JinaPostNorm("jina-v2-post-norm", hidden=30, heads=3, intermediate=29),
    JinaPostNorm("jina-v2-post-norm-original", hidden=20, heads=5, intermediate=26, act="gelu_new", feed_forward="original", dtype=torch.bfloat16),
    JinaV3("jina-v3-mean", dtype=torch.float32, hidden=30, heads=3, intermediate=37, act="gelu_new"),
    JinaV3("jina-v3-classifier", hidden=20, heads=2, intermediate=24, task="JinaEmbeddingsV3ForSequenceClassification", labels=("a", "b", "c")),
    JinaV3("jina-v3-reranker", hidden=22, heads=1, intermediate=26, act="gelu_new", task="JinaEmbeddingsV3ForSequenceClassification", labels=("LABEL_0",), dtype=torch.bfloat16),
    JinaV3("jina-v3-token-classifier", hidden=20, heads=2, intermediate=24, task="JinaEmbeddingsV3ForTokenClassification", labels=("O", "B", "I")),
    JinaV3("jina-v3-masked-lm", hidden=16, heads=2, intermediate=20, layers=1, task="JinaEmbeddingsV3ForMaskedLM", vector_items=(1,)),
    Flash("jina-v3-hub", dtype=torch.float32, hidden=24, heads=2, intermediate=30, adapters=3),
    Flash("jina-v3-hub-masked-lm", hidden=16, heads=2, intermediate=20, layers=1, task="XLMRobertaForMaskedLM", vector_items=(1,)),
    Flash("jina-reranker-v2", hidden=20, heads=2, intermediate=24, position_type="absolute", task="XLMRobertaForSequenceClassification", labels=("LABEL_0",), dtype=torch.bfloat16, texts=PADDED),
)
