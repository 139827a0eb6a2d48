"""libbei.so through ctypes: the few calls of include/bei.h that the benchmark makes, with nothing between it and the C interface."""

import array
import ctypes
import json

from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p


class Batch(ctypes.Structure):
    """bei_batch"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("input_ids", POINTER(c_uint32)),
        ("token_type_ids", POINTER(c_uint32)),
        ("position_ids", POINTER(c_uint32)),
        ("total_tokens", c_size_t),
        ("cumulative_seq_lengths", POINTER(c_uint32)),
        ("num_sequences", c_size_t),
        ("pooled_indices", POINTER(c_uint32)),
        ("num_pooled", c_size_t),
        ("raw_indices", POINTER(c_uint32)),
        ("num_raw", c_size_t),
        ("sparse_indices", POINTER(c_uint32)),
        ("num_sparse", c_size_t),
        ("max_length", c_uint32),
        ("reserved", c_uint32),
    ]


class Text(ctypes.Structure):
    """bei_text"""

    _fields_ = [
        ("text", c_char_p),
        ("text_size", c_size_t),
        ("pair", c_char_p),
        ("pair_size", c_size_t),
        ("outputs", c_uint32),
        ("reserved", c_uint32),
    ]


class Info(ctypes.Structure):
    """bei_info"""

    _fields_ = [("struct_size", c_size_t)] + [
        (name, c_uint32)
        for name in (
            "api_version model_type pooling dimensions token_dimensions labels vocab_size type_vocab_size position_offset "
            "max_length max_tokens max_sequences best_tokens slots is_padded has_tokenizer normalizes reserved"
        ).split()
    ]


class Stats(ctypes.Structure):
    """bei_stats"""

    _fields_ = [("struct_size", c_size_t)] + [
        (name, c_uint64) for name in ("total_ns", "tokenization_ns", "queue_ns", "inference_ns", "tokens", "runs")
    ]


class BeiError(RuntimeError):
    """A bei_error, or the message of the first item that failed."""


def u32(values: list[int]) -> ctypes.Array:
    return (c_uint32 * len(values))(*values)


class Library:
    """A loaded libbei.so. Load it once per process."""

    def __init__(self, path: str):
        self.lib = lib = ctypes.CDLL(path)
        lib.bei_version.restype = c_char_p
        lib.bei_error_message.restype = c_char_p
        lib.bei_error_message.argtypes = [c_void_p]
        lib.bei_error_free.restype = None
        lib.bei_error_free.argtypes = [c_void_p]
        lib.bei_result_text.restype = c_void_p
        lib.bei_result_text.argtypes = [c_uint64, c_size_t, POINTER(c_size_t)]
        lib.bei_result_free.restype = None
        lib.bei_result_free.argtypes = [c_uint64]
        outputs = [POINTER(c_float), c_size_t, POINTER(c_int32), c_size_t, POINTER(c_uint64)]
        for name, arguments in {
            "bei_init": [c_char_p, c_size_t, POINTER(c_uint64)],
            "bei_shutdown": [c_uint64, c_uint64],
            "bei_get_info": [c_uint64, POINTER(Info)],
            "bei_info_json": [c_uint64, POINTER(c_uint64)],
            "bei_embed": [c_uint64, POINTER(Batch), c_void_p, *outputs],
            "bei_embed_texts": [c_uint64, POINTER(Text), c_size_t, c_void_p, *outputs],
            "bei_result_stats": [c_uint64, POINTER(Stats)],
        }.items():
            getattr(lib, name).restype = c_void_p
            getattr(lib, name).argtypes = arguments

    def version(self) -> str:
        return self.lib.bei_version().decode()

    def call(self, name: str, *arguments) -> None:
        error = getattr(self.lib, name)(*arguments)
        if error:
            message = self.lib.bei_error_message(error).decode()
            self.lib.bei_error_free(error)
            raise BeiError(f"{name}: {message}")

    def open(self, options: dict) -> "Backend":
        return Backend(self, options)


class Backend:
    """An open model. Inputs are laid out by the *_arguments methods beforehand, so that a timed call is the C call alone."""

    def __init__(self, library: Library, options: dict):
        self.library, self.handle = library, c_uint64()
        text = json.dumps(options).encode()
        library.call("bei_init", text, len(text), byref(self.handle))
        self.info = Info(struct_size=ctypes.sizeof(Info))
        library.call("bei_get_info", self.handle, byref(self.info))

    def info_json(self) -> dict:
        result, size = c_uint64(), c_size_t()
        self.library.call("bei_info_json", self.handle, byref(result))
        text = ctypes.string_at(self.library.lib.bei_result_text(result, 0, byref(size)), size.value)
        self.library.lib.bei_result_free(result)
        return json.loads(text)

    def text_arguments(self, texts: list[str]) -> ctypes.Array:
        encoded = [text.encode() for text in texts]
        return (Text * len(texts))(*((data, len(data), None, 0, 0, 0) for data in encoded))

    def batch_arguments(self, sequences: list[list[int]]) -> Batch:
        ids, cumulative = [], [0]
        for sequence in sequences:
            ids += sequence
            cumulative.append(len(ids))
        n = len(sequences)
        batch = Batch(struct_size=ctypes.sizeof(Batch), total_tokens=len(ids), num_sequences=n, num_pooled=n)
        batch.input_ids, batch.cumulative_seq_lengths, batch.pooled_indices = u32(ids), u32(cumulative), u32(range(n))
        return batch

    def buffer(self, n: int) -> ctypes.Array:
        return (c_float * (n * self.info.dimensions))()

    def embed_texts(self, texts: ctypes.Array, pooled: ctypes.Array) -> None:
        self.library.call("bei_embed_texts", self.handle, texts, len(texts), None, pooled, len(pooled), None, 0, None)

    def embed(self, batch: Batch, pooled: ctypes.Array) -> None:
        self.library.call("bei_embed", self.handle, byref(batch), None, pooled, len(pooled), None, 0, None)

    def count_tokens(self, texts: ctypes.Array) -> int:
        """Tokens that the library computes for the texts, as its own stats tell."""
        pooled, result, stats = self.buffer(len(texts)), c_uint64(), Stats(struct_size=ctypes.sizeof(Stats))
        self.library.call("bei_embed_texts", self.handle, texts, len(texts), None, pooled, len(pooled), None, 0, byref(result))
        self.library.call("bei_result_stats", result, byref(stats))
        self.library.lib.bei_result_free(result)
        return stats.tokens

    def shutdown(self) -> None:
        self.library.call("bei_shutdown", self.handle, 10_000)


def float32(pooled: ctypes.Array) -> bytes:
    return array.array("f", pooled).tobytes()
