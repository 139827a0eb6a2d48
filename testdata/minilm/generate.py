"""Makes golden.json, embeddings.f32, pooled.f32 and token_embeddings.f32 from texts.json.

The vectors are sentence-transformers' own, fp32 on the CPU, one text at a time, so no padding touches them. A second path
(transformers' AutoModel, mean and norm by hand) must agree before anything is written. The .f32 files are rows of
little-endian float32, in the order of texts.json; golden.json has their shapes. Its bfloat16_cosine is the least cosine of
the same model in bfloat16 to pooled.f32 and token_embeddings.f32 (a text's rows joined). Kernels of bfloat16 differ between
processors, so its last digits may, too.

    python3 -m venv .deps/venv-golden && .deps/venv-golden/bin/pip install -r testdata/requirements.txt
    .deps/venv-golden/bin/python testdata/minilm/generate.py --model .deps/models/all-MiniLM-L6-v2
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy
import sentence_transformers
import tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
# Token vectors are wanted of short texts only, so that the file stays small: one word, plain English, emoji with ZWJ.
TOKEN_VECTOR_TEXTS = ("one letter", "english short", "emoji with ZWJ, skin tone and flags")
MIN_COSINE = 0.9999999


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plain_transformers(folder: str, texts: list[str], max_length: int) -> tuple[numpy.ndarray, list[list[int]]]:
    """The second path: [n, hidden] mean-pooled rows, not normalised, and the token ids of each text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows, ids = [], []
    for text in texts:
        encoding = tokenizer(text, truncation=True, max_length=max_length, padding=False, return_tensors="pt")
        ids.append(encoding["input_ids"][0].tolist())
        rows.append(model(**encoding).last_hidden_state[0].double().mean(dim=0).float().numpy())
    return numpy.stack(rows), ids


def tokenizer_json_ids(folder: str, texts: list[str], max_length: int) -> list[list[int]]:
    """Token ids from tokenizer.json alone, its own padding and truncation replaced."""
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return [tokenizer.encode(text).ids for text in texts]


def cosine(a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    a, b = a.astype(numpy.float64), b.astype(numpy.float64)
    return (a * b).sum(-1) / numpy.linalg.norm(a, axis=-1) / numpy.linalg.norm(b, axis=-1)


def pooled_row(model: sentence_transformers.SentenceTransformer, text: str) -> numpy.ndarray:
    """Every module but the last, Normalize, gives the pooled row before it is normalised."""
    features = model.preprocess([text])
    for module in list(model)[:-1]:
        features = module(features)
    return features["sentence_embedding"][0].float().numpy()


def token_vectors(model: sentence_transformers.SentenceTransformer, text: str) -> numpy.ndarray:
    return model.encode(text, batch_size=1, output_value="token_embeddings", show_progress_bar=False).float().numpy()


def write_rows(name: str, rows: numpy.ndarray) -> dict:
    (HERE / name).write_bytes(rows.astype("<f4").tobytes())
    return {"file": name, "shape": list(rows.shape)}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of all-MiniLM-L6-v2")
    folder = parser.parse_args().model
    torch.set_num_threads(2)

    cases = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    names, texts = [case["name"] for case in cases], [case["text"] for case in cases]
    model = sentence_transformers.SentenceTransformer(folder, device="cpu").float().eval()

    embeddings, pooled = [], []
    for text in texts:
        embeddings.append(model.encode(text, batch_size=1, show_progress_bar=False))
        pooled.append(pooled_row(model, text))
    embeddings, pooled = numpy.stack(embeddings), numpy.stack(pooled)

    second, ids = plain_transformers(folder, texts, model.max_seq_length)
    assert ids == tokenizer_json_ids(folder, texts, model.max_seq_length), "transformers and tokenizer.json disagree on token ids"
    worst = min(cosine(embeddings, second).min(), cosine(embeddings, pooled).min())
    assert worst > MIN_COSINE, f"the two paths disagree: cosine {worst}"
    assert numpy.allclose(pooled, second, atol=2e-6), f"pooled rows disagree by {abs(pooled - second).max()}"

    narrow = sentence_transformers.SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.bfloat16}).eval()
    bfloat16 = cosine(pooled, numpy.stack([pooled_row(narrow, text) for text in texts])).min()

    token_items, token_rows, offset = [], [], 0
    for name in TOKEN_VECTOR_TEXTS:
        i = names.index(name)
        rows = token_vectors(model, texts[i])
        assert len(rows) == len(ids[i])
        bfloat16 = min(bfloat16, cosine(rows.ravel(), token_vectors(narrow, texts[i]).ravel()))
        token_items.append({"text": i, "name": name, "first_row": offset, "rows": len(rows)})
        token_rows.append(rows)
        offset += len(rows)

    golden = {
        "model": "all-MiniLM-L6-v2",
        "model_sha256": sha256(pathlib.Path(folder) / "model.safetensors"),
        "tokenizer_sha256": sha256(pathlib.Path(folder) / "tokenizer.json"),
        "texts": "texts.json",
        "texts_sha256": sha256(HERE / "texts.json"),
        "count": len(texts),
        "dim": int(embeddings.shape[1]),
        "max_seq_length": model.max_seq_length,
        "embeddings": write_rows("embeddings.f32", embeddings),
        "pooled": write_rows("pooled.f32", pooled),
        "token_embeddings": {**write_rows("token_embeddings.f32", numpy.concatenate(token_rows)), "items": token_items},
        "token_counts": [len(row) for row in ids],
        "input_ids": ids,
        "min_cosine_of_second_path": float(worst),
        "bfloat16_cosine": round(float(bfloat16), 7),
        "versions": {
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "sentence_transformers": sentence_transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items()]
    (HERE / "golden.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(texts)} texts, token counts {min(golden['token_counts'])} to {max(golden['token_counts'])}, worst cosine {worst:.9f}, bfloat16 cosine {bfloat16:.7f}")


if __name__ == "__main__":
    main()
