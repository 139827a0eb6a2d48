package tokenize

/*
#cgo LDFLAGS: -L${SRCDIR}/../../.deps/lib
#cgo noescape bei_encode
#cgo nocallback bei_encode
#cgo noescape bei_free_tokens
#cgo nocallback bei_free_tokens
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

// The C interface of libtokenizers.a. The fields of the buffer are integers here, because the pointers of an empty Rust
// vector are small dangling numbers, which Go must not find in a pointer variable. len is Rust's usize; the module's own
// header says uint32_t, which leaves half of it unset when the buffer is given back.
struct tokenizers_options { bool encode_special_tokens; };
struct tokenizers_encode_options {
  bool add_special_tokens, return_type_ids, return_tokens, return_special_tokens_mask, return_attention_mask, return_offsets;
};
struct tokenizers_buffer { uintptr_t ids, type_ids, special_tokens_mask, attention_mask, tokens, offsets; size_t len; };
extern void tokenizers_version_1_23_0(void);
extern void *tokenizers_from_bytes(const uint8_t *config, uint32_t len, const struct tokenizers_options *options, char **error);
extern struct tokenizers_buffer tokenizers_encode(void *tokenizer, const char *text, const struct tokenizers_encode_options *options);
extern char *tokenizers_decode(void *tokenizer, const uint32_t *ids, uint32_t len, bool skip_special_tokens);
extern void tokenizers_free_tokenizer(void *tokenizer);
extern void tokenizers_free_buffer(struct tokenizers_buffer buffer);
extern void tokenizers_free_string(char *string);

// Linking fails where the library is of another version than these declarations.
void (*bei_tokenizers_version_check)(void) = &tokenizers_version_1_23_0;

struct bei_tokens {
  struct tokenizers_buffer buffer;
  const uint32_t *ids;   // [len], NULL where len is 0
  const size_t *offsets; // [2 * len] start, end, in bytes; NULL where not asked for or len is 0
  size_t len;
  bool ok; // false: upstream returned an error or panicked
};

static void *bei_open(const uint8_t *config, uint32_t len, char **error) {
  static const struct tokenizers_options options = {false};
  return tokenizers_from_bytes(config, len, &options, error);
}

static void bei_encode(void *tokenizer, const char *text, bool offsets, struct bei_tokens *out) {
  const struct tokenizers_encode_options options = {.return_offsets = offsets};
  out->buffer = tokenizers_encode(tokenizer, text, &options);
  out->len = out->buffer.len;
  // A failed encode leaves ids NULL; one without tokens has the dangling pointer of an empty vector.
  out->ok = out->buffer.ids != 0;
  out->ids = out->len > 0 ? (const uint32_t *)out->buffer.ids : NULL;
  out->offsets = out->len > 0 ? (const size_t *)out->buffer.offsets : NULL;
}

static void bei_free_tokens(const struct bei_tokens *tokens) { tokenizers_free_buffer(tokens->buffer); }
*/
import "C"

import (
	"errors"
	"runtime"
	"unsafe"

	// Its cgo flags link libtokenizers.a, and go.mod pins the library's version through it. Its Go functions are not used:
	// they cannot tell a failed encode from one without tokens, and copy each result twice.
	_ "github.com/daulet/tokenizers"
)

// binding is one tokenizer of libtokenizers.a. Its calls may run on any number of threads at a time; free must be last.
type binding struct{ handle unsafe.Pointer }

// rawTokens are the tokens of one text, in memory of the library until free.
type rawTokens struct {
	c       C.struct_bei_tokens
	ids     []uint32
	offsets []uint64 // start, end, start, end, ...: bytes of the text; empty where not asked for
}

var errBinding = errors.New("the tokenizer library failed")

// openBinding opens a tokenizer.json. Upstream aborts the process where it panics here, so config must have been checked.
func openBinding(config []byte) (binding, error) {
	var message *C.char
	handle := C.bei_open((*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(config))), C.uint32_t(len(config)), &message)
	if handle != nil {
		return binding{handle}, nil
	}
	if message == nil {
		return binding{}, errBinding
	}
	defer C.tokenizers_free_string(message)
	return binding{}, errors.New(C.GoString(message))
}

// encode tokenizes text, whose last byte must be its only NUL, without special tokens. out must be freed where it succeeds.
// Errors and panics inside the library, which it catches, are errBinding.
func (b binding) encode(text []byte, offsets bool, out *rawTokens) error {
	C.bei_encode(b.handle, (*C.char)(unsafe.Pointer(unsafe.SliceData(text))), C.bool(offsets), &out.c)
	runtime.KeepAlive(text)
	out.ids, out.offsets = nil, nil
	if !bool(out.c.ok) {
		return errBinding
	}
	n := int(out.c.len)
	if n > 0 {
		out.ids = unsafe.Slice((*uint32)(unsafe.Pointer(out.c.ids)), n)
		if offsets {
			out.offsets = unsafe.Slice((*uint64)(unsafe.Pointer(out.c.offsets)), 2*n)
		}
	}
	return nil
}

func (r *rawTokens) free() {
	if bool(r.c.ok) {
		C.bei_free_tokens(&r.c)
	}
	*r = rawTokens{}
}

// decode joins the tokens of ids, of which there must be at least one.
func (b binding) decode(ids []uint32, skipSpecial bool) (string, error) {
	text := C.tokenizers_decode(b.handle, (*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(ids))), C.uint32_t(len(ids)), C.bool(skipSpecial))
	if text == nil {
		return "", errBinding
	}
	defer C.tokenizers_free_string(text)
	return C.GoString(text), nil
}

func (b binding) free() { C.tokenizers_free_tokenizer(b.handle) }
