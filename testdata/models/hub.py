"""Models that live as code on the hub, in plain torch from their published definitions: what transformers has no class for, or not for all
that their configs say. Weights have the names of the hub's files; a forward names them with the shapes that it needs, so running it once
tells what a model's weights are.

One item at a time, without padding: ids, types and positions are [tokens].
"""

import json
import math
import tempfile
import types

import safetensors.torch
import sentence_transformers
import torch
import transformers
from sentence_transformers.base.modules.input_module import InputModule
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch.nn import functional

from spec import SEQUENCE, TOKEN, Spec

MODULES = {"Normalize": Normalize, "Pooling": Pooling}

ACTIVATIONS = {
    "gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu, "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
}


class Hub:
    """A model of the hub. trunk and what a head needs are of its family. It is called as transformers' models are."""

    def __init__(self, spec: Spec):
        self.config = json.loads((spec.folder / "config.json").read_text(encoding="utf-8"))
        self.labels = len(spec.labels)
        self.task = spec.task
        self.hidden, self.heads, self.eps = spec.hidden, spec.heads, spec.eps
        self.weights: dict[str, torch.Tensor] = {}
        self.read = False  # weights has all that the files have: nothing may be missing

    def named_parameters(self) -> list[tuple[str, torch.Tensor]]:
        return list(self.weights.items())

    def trace(self) -> "Hub":
        """Finds out what weights there are."""
        ids = torch.zeros((1, 2), dtype=torch.long)
        self(input_ids=ids, token_type_ids=ids, position_ids=ids)
        return self

    def load(self, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> "Hub":
        self.weights, self.read = {name: tensor.to(dtype) for name, tensor in weights.items()}, True
        return self

    # Layers.

    def weight(self, name: str, *shape: int) -> torch.Tensor:
        if not self.read:
            self.weights.setdefault(name, torch.zeros(shape))
        assert self.weights[name].shape == torch.Size(shape), (name, self.weights[name].shape, shape)
        return self.weights[name]

    def linear(self, x: torch.Tensor, name: str, width: int, bias: bool = True) -> torch.Tensor:
        y = x @ self.weight(f"{name}.weight", width, x.shape[-1]).T
        return y + self.weight(f"{name}.bias", width) if bias else y

    def norm(self, x: torch.Tensor, name: str, eps: float | None = None) -> torch.Tensor:
        width = x.shape[-1]
        return functional.layer_norm(x, (width,), self.weight(f"{name}.weight", width), self.weight(f"{name}.bias", width), eps or self.eps)

    def rms_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self.weight(f"{name}.weight", x.shape[-1]) * x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps)

    def table(self, name: str, rows: int, ids: torch.Tensor) -> torch.Tensor:
        return self.weight(f"{name}.weight", rows, self.hidden)[ids]

    def attention(self, q, k, v, bias: torch.Tensor | float = 0.0, turn=lambda x: x) -> torch.Tensor:
        """softmax(q k^T / sqrt(d) + bias) v for each head; rows are [tokens, heads * d], turn rotates [heads, tokens, d]."""
        q, k, v = (x.view(len(x), self.heads, -1).transpose(0, 1) for x in (q, k, v))
        scores = turn(q) @ turn(k).transpose(1, 2) / math.sqrt(q.shape[-1]) + bias
        return (torch.softmax(scores, -1) @ v).transpose(0, 1).flatten(1)

    # Heads.

    prefix = ""  # before the trunk's names in models with a head
    pooler = True  # BERT's: classifiers have a pooler and one linear map

    def trunk(self, p: str, ids: torch.Tensor, kinds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def masked_lm(self, x: torch.Tensor, p: str) -> torch.Tensor:
        raise NotImplementedError

    def __call__(self, input_ids, token_type_ids, position_ids, **_) -> types.SimpleNamespace:
        p = "" if self.task.endswith("Model") else self.prefix
        x = self.trunk(p, input_ids[0], token_type_ids[0], position_ids[0])
        logits = None
        if self.task.endswith(SEQUENCE) and self.pooler:
            logits = self.linear(torch.tanh(self.linear(x[:1], f"{p}pooler.dense", self.hidden)), "classifier", self.labels)
        elif self.task.endswith(SEQUENCE):
            logits = self.linear(torch.tanh(self.linear(x[:1], "classifier.dense", self.hidden)), "classifier.out_proj", self.labels)
        elif self.task.endswith(TOKEN):
            logits = self.linear(x, "classifier", self.labels)[None]
        elif not self.task.endswith("Model"):
            logits = self.masked_lm(x, p)[None]
        return types.SimpleNamespace(last_hidden_state=x[None], logits=logits)


def rotation(positions: torch.Tensor, frequencies: torch.Tensor, interleaved: bool = False):
    """Turns the first numbers of [heads, tokens, d] in pairs by positions times frequencies."""
    angle = positions[:, None].float() * frequencies
    width = 2 * len(frequencies)

    def turn(x: torch.Tensor) -> torch.Tensor:
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = (x[..., 0:width:2], x[..., 1:width:2]) if interleaved else (x[..., : width // 2], x[..., width // 2 : width])
        pair = (first * cos - second * sin, second * cos + first * sin)
        turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
        return torch.cat((turned, x[..., width:]), -1)

    return turn


def frequencies(base: float, width: int) -> torch.Tensor:
    return 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.float32) / width))


class HubTransformer(InputModule):
    """A Hub as the first module of a SentenceTransformer: texts one at a time."""

    def __init__(self, spec: Spec, model: Hub):
        super().__init__()
        self.spec, self.auto_model, self.max_seq_length = spec, model, spec.max_seq_length
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(spec.folder)

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_) -> dict[str, torch.Tensor]:
        (text,) = inputs
        return dict(self.tokenizer((prompt or "") + text, truncation=True, max_length=self.max_seq_length, return_tensors="pt"))

    def forward(self, features: dict[str, torch.Tensor], **_) -> dict[str, torch.Tensor]:
        ids = features["input_ids"]
        kinds = features.get("token_type_ids", torch.zeros_like(ids))
        positions = torch.tensor([self.spec.position_ids(ids[0].tolist())])
        return features | {"token_embeddings": self.auto_model(ids, kinds, positions).last_hidden_state}

    def save(self, *_, **__) -> None:
        raise NotImplementedError


class HubSpec:
    """What makes a Spec one of a folder in the format of code on the hub; code is the class here that has its arithmetic."""

    code: type[Hub]

    def module(self) -> Hub:
        return self.code(self).trace()

    def file(self) -> dict[str, torch.Tensor]:
        """The weights of the file by the names of code."""
        stored = safetensors.torch.load_file(self.folder / "model.safetensors")
        return {name.removeprefix(self.prefix): tensor for name, tensor in stored.items()}

    def load(self, dtype: torch.dtype) -> tuple[Hub, sentence_transformers.SentenceTransformer | None]:
        model = self.code(self).load(self.file(), dtype)
        if dtype == torch.float32:
            self.compare(model)
        if not self.is_embedding:
            return model, None
        modules = [HubTransformer(self, model)]
        for module in json.loads((self.folder / "modules.json").read_text(encoding="utf-8"))[1:]:
            cls, path = MODULES[module["type"].rsplit(".", 1)[1]], self.folder / module["path"]
            modules.append((cls.load(str(path)) if path.exists() else cls()).to(dtype))
        return model, sentence_transformers.SentenceTransformer(modules=modules, device="cpu").eval()

    def results(self, model: Hub, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor]:
        outputs = model(**inputs)
        rows = outputs.last_hidden_state[0]
        if self.is_embedding:
            return None, rows
        logits = outputs.logits[0]
        if self.task.endswith(SEQUENCE):
            return logits, rows
        if self.task.endswith(TOKEN):
            return None, logits
        return torch.log1p(torch.relu(logits)).max(dim=0).values, logits

    def native(self) -> tuple[dict, dict[str, torch.Tensor]] | None:
        """transformers' config for the same model, where it has one, and the file's weights in names that it has or converts."""
        return None

    def compare(self, model: Hub) -> None:
        """transformers must compute the same, where it can."""
        if (native := self.native()) is None:
            return
        config, weights = native
        config = transformers.AutoConfig.for_model(**config, num_labels=len(self.labels) or 2)
        cls = getattr(transformers, config.architectures[0])
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            safetensors.torch.save_file({name: t.contiguous() for name, t in weights.items()}, f"{folder}/model.safetensors", {"format": "pt"})
            other, info = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        missing = [name for name in info["missing_keys"] if "pooler" not in name]
        assert not missing and not info["unexpected_keys"], (self.name, info)
        ids = torch.arange(2, 19) * 7 % self.vocab_size
        inputs = {
            "input_ids": ids[None],
            "token_type_ids": (torch.arange(17)[None] // 9).clamp(max=self.types - 1),
            "position_ids": torch.tensor([self.position_ids(ids.tolist())]),
        }
        ours, theirs = model(**inputs), other.eval()(**inputs)
        key = "last_hidden_state" if ours.logits is None else "logits"
        gap = (getattr(ours, key) - getattr(theirs, key)).abs().max().item()
        assert gap < 2e-5, (self.name, gap)
        print(f"{self.name}: as transformers' {cls.__name__}, within {gap:.1e}")
