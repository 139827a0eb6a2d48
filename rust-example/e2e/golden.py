"""What sentence-transformers and transformers made of the models' texts (testdata/README.md), and how near an answer is to it."""

import json

import numpy

from conftest import TESTDATA

LEAST_COSINE = 0.999999
# testdata/README.md: other threads and processors differ by up to 8e-6; scores are that of logits.
TOLERANCE = 2e-5


def read(folder, file="golden.json"):
    return json.loads((TESTDATA / "models" / folder / file).read_text(encoding="utf-8"))


def minilm():
    """Texts, their vectors of length 1, and their vectors as pooled."""
    folder = TESTDATA / "minilm"
    texts = [each["text"] for each in json.loads((folder / "texts.json").read_text(encoding="utf-8"))]
    rows = [numpy.fromfile(folder / file, "<f4").reshape(len(texts), -1) for file in ("embeddings.f32", "pooled.f32")]
    return texts, *rows


def items(golden, pairs=False):
    """Number, text (or a list of the two of a pair), and row of the items without a named prompt."""
    for i, (item, row) in enumerate(zip(golden["items"], golden["pooled"])):
        if item["prompt_name"] is None and (item["pair"] is not None) == pairs:
            yield i, [item["text"], item["pair"]] if pairs else item["text"], row


def cosines(found, expected):
    found, expected = (numpy.asarray(rows, "f8") for rows in (found, expected))
    assert found.shape == expected.shape
    return (found * expected).sum(-1) / numpy.linalg.norm(found, axis=-1) / numpy.linalg.norm(expected, axis=-1)


def same_directions(found, expected):
    """Vectors are those that sentence-transformers gives."""
    least = cosines(found, expected).min()
    assert least >= LEAST_COSINE, least


def same_numbers(found, expected):
    numpy.testing.assert_allclose(numpy.asarray(found, "f8"), numpy.asarray(expected, "f8"), rtol=TOLERANCE, atol=TOLERANCE)


def softmax(logits):
    powers = numpy.exp(numpy.asarray(logits, "f8") - numpy.max(logits))
    return powers / powers.sum()


def sigmoid(logit):
    return 1 / (1 + numpy.exp(-numpy.float64(logit)))
