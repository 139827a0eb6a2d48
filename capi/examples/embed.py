"""python3 embed.py .deps/models/all-MiniLM-L6-v2"""
import ctypes as c
import json
import os
import sys


class Text(c.Structure):
    _fields_ = [("text", c.c_char_p), ("text_size", c.c_size_t), ("pair", c.c_char_p), ("pair_size", c.c_size_t),
                ("outputs", c.c_uint32), ("reserved", c.c_uint32)]


class Info(c.Structure):  # bei_info: 18 numbers, the fourth of them is dimensions
    _fields_ = [("struct_size", c.c_size_t)] + [(f"field{i}", c.c_uint32) for i in range(18)]


bei = c.CDLL(os.environ.get("BEI_LIBRARY", "dist/libbei.so"))
bei.bei_error_message.restype = c.c_char_p
for function in (bei.bei_init, bei.bei_get_info, bei.bei_embed_texts, bei.bei_shutdown):
    function.restype = c.c_void_p  # an error, or None


def check(error):
    if error:
        message = bei.bei_error_message(c.c_void_p(error)).decode()
        bei.bei_error_free(c.c_void_p(error))
        raise RuntimeError(message)


options = json.dumps({"model": sys.argv[1], "log": {"level": "error"}}).encode()
backend = c.c_uint64()
check(bei.bei_init(options, c.c_size_t(len(options)), c.byref(backend)))
info = Info(c.sizeof(Info))
check(bei.bei_get_info(backend, c.byref(info)))
d = info.field3  # dimensions

encoded = [text.encode() for text in ("A cat sits on the mat.", "There is a cat on the rug.")]
texts = (Text * 2)(*(Text(text, len(text)) for text in encoded))
vectors = (c.c_float * (2 * d))()
check(bei.bei_embed_texts(backend, texts, c.c_size_t(2), None, vectors, c.c_size_t(2 * d), None, c.c_size_t(0), None))
print(f"{d} dimensions, cosine %.4f" % sum(x * y for x, y in zip(vectors[:d], vectors[d:])))
check(bei.bei_shutdown(backend, c.c_uint64(1000)))
