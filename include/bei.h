/*
 * bei.h: the C interface of BEI-Runtime, version 1.
 *
 * libbei.so turns token batches or texts into embeddings, class scores and token scores. This header is its manual.
 *
 * LINKING    Link with -lbei; no other flag is needed. The library needs libc, libm and the dynamic loader only.
 *            Engines (ONNX Runtime, TensorRT) are opened at run time. It is never unloaded: dlclose() leaves it in
 *            place. Load it once per process, and load no second Go shared library beside it.
 * THREADS    Every function may be called from any thread at any time, unless it says otherwise. Nothing is
 *            thread-local: a result made on one thread may be read and freed on another.
 * FORK       After fork() without exec, every call in the child that returns a bei_error returns a static one with
 *            the code BEI_FORKED; accessors of results return 0 or NULL, and frees do nothing. Accessors of errors,
 *            bei_status_name, bei_version and bei_api_version work. fork() then exec() is fine.
 * SIGNALS    The library installs no signal handler of its own beyond what the Go runtime needs (SIGSEGV, SIGBUS,
 *            SIGFPE, SIGURG; those of the host are chained), never exits the process, and never prints: logs go where
 *            bei_set_log_callback or the "log" options say. Handlers of the host need SA_ONSTACK, since Go's stacks are
 *            small. exit() while calls are under way is fine: they get BEI_SHUT_DOWN.
 * ERRORS     A function returns NULL on success, otherwise an error that the caller owns and gives to
 *            bei_error_free. It concerns the call as a whole. On error no output argument is written, except where a
 *            function says so. What concerns one item of a batch is in item_status[i], with a text from
 *            bei_result_item_message: items with BEI_OK are valid even when others failed. Where item_status is
 *            NULL, the first failed item makes the call fail, and rows of other items may have been written.
 * MEMORY     What the caller passes in stays the caller's: it must stay valid and unchanged until the function
 *            returns, and is not looked at afterwards. Fixed-size outputs are written to buffers of the caller;
 *            outputs of unknown size come in a bei_result, which the caller frees with bei_result_free. Do not mix
 *            allocators: never pass memory of the library to free().
 * TEXT       UTF-8, as pointer and length in bytes, never NUL-terminated, unless a comment says "C string".
 * HANDLES    Backends, results and cancel tokens are integers, not pointers. Zero is never valid. One that was
 *            freed, or never given out, yields BEI_INVALID_HANDLE (or NULL / 0 from accessors), never a crash;
 *            numbers are not reused.
 * VERSIONS   BEI_API_VERSION grows by one when functions or fields are added. Structs begin with struct_size: set it
 *            to sizeof the struct, best with the *_INIT macro. A library accepts the smaller structs of older
 *            callers and reads new fields as zero, which always means "as before"; it refuses larger structs whose
 *            unknown tail is not zero. Numbers and meanings never change under one SONAME.
 */
#ifndef BEI_H
#define BEI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The interface version of this header. Compare with bei_api_version() of the library that was loaded. */
#define BEI_API_VERSION 1

/* ---- Status codes: of errors and of items ---- */

/*
 * One list serves errors (bei_error_code) and items (item_status[i]). The name in brackets is the BackendError of the
 * text-embeddings-inference family that a router maps it to.
 */
enum {
  BEI_OK = 0,
  BEI_INVALID_ARGUMENT = 1,    /* an argument or field is wrong; the message names it, its value and the limit */
  BEI_INVALID_HANDLE = 2,      /* a handle is zero, stale, or of another kind */
  BEI_UNSUPPORTED = 3,         /* this model, engine or build cannot do what was asked; the message names it */
  BEI_NO_BACKEND = 4,          /* [NoBackend] no engine can be used here; the message says what was sought, where */
  BEI_START = 5,               /* [Start] the model or the engine could not be opened */
  BEI_WEIGHTS_NOT_FOUND = 6,   /* [WeightsNotFound] a weights file or tensor is missing */
  BEI_INFERENCE = 7,           /* [Inference] a run failed */
  BEI_UNHEALTHY = 8,           /* [Unhealthy] the engine or device is lost or hung */
  BEI_OVERLOADED = 9,          /* the queue is full, or no slot came free in time; try again later */
  BEI_TIMEOUT = 10,            /* the call's timeout passed before the item was done */
  BEI_CANCELLED = 11,          /* the call's cancel token was triggered */
  BEI_SHUT_DOWN = 12,          /* the backend was shut down while the call waited */
  BEI_FORKED = 13,             /* called in a forked child */
  BEI_INTERNAL = 14,           /* a defect of the library (a panic was caught); please report it */
  BEI_BUFFER_TOO_SMALL = 15,   /* an output buffer is too small; the message says how large it must be */
  BEI_EMPTY = 32,              /* item: no text, or no tokens where tokens are needed */
  BEI_TOO_LONG = 33,           /* item: longer than max_length, and truncation is off or impossible */
  BEI_INVALID_UTF8 = 34,       /* item: the text is not UTF-8; the message gives the byte offset */
  BEI_TOKEN_OUT_OF_RANGE = 35, /* item: a token id, type id or position id is outside its table */
  BEI_NON_FINITE = 36,         /* item: the result held NaN or infinity, or zeros to be normalised, also when run again
                                  in float32 where that can be (option rerun_max_bytes): withheld */
  BEI_TOKENIZATION = 37,       /* item: the tokenizer failed on the text */
  BEI_NUL_BYTE = 38            /* item: the text holds a NUL byte; the message gives the byte offset */
};

/* Log levels of bei_log_fn. */
enum { BEI_LOG_DEBUG = -1, BEI_LOG_INFO = 0, BEI_LOG_WARN = 1, BEI_LOG_ERROR = 2 };

/* bei_info.model_type. A reranker is a classifier with exactly one label. */
enum { BEI_MODEL_EMBEDDING = 1, BEI_MODEL_CLASSIFIER = 2, BEI_MODEL_TOKEN_CLASSIFIER = 3 };

/* bei_info.pooling. BEI_POOLING_OTHER: several modes joined, or one without a number here; bei_info_json names it. */
enum {
  BEI_POOLING_NONE = 0,
  BEI_POOLING_CLS = 1,
  BEI_POOLING_MEAN = 2,
  BEI_POOLING_SPLADE = 3,
  BEI_POOLING_LAST_TOKEN = 4,
  BEI_POOLING_OTHER = 255
};

/*
 * What a text item wants, as bits of bei_text.outputs; 0 means BEI_OUTPUT_POOLED. One forward pass serves them all.
 */
enum {
  BEI_OUTPUT_POOLED = 1,        /* one vector, in the pooled buffer */
  BEI_OUTPUT_TOKEN_VECTORS = 2, /* one vector for each token: bei_result_token_vectors */
  BEI_OUTPUT_SPARSE = 4,        /* vocabulary weights (SPLADE, bge-m3): bei_result_sparse */
  BEI_OUTPUT_TOKENS = 8         /* the tokens themselves, with offsets: bei_result_tokens */
};

/* Three-valued switches in bei_call_options: zero leaves the choice to the model and the init options. */
enum { BEI_DEFAULT = 0, BEI_ON = 1, BEI_OFF = 2 };

/* bei_call_options.truncation_side: the side that is cut off. */
enum { BEI_SIDE_DEFAULT = 0, BEI_SIDE_RIGHT = 1, BEI_SIDE_LEFT = 2 };

/* bei_call_options.priority. Classes share the engine by weight (1 : 4 : 16), so that none starves. */
enum { BEI_PRIORITY_LOW = -1, BEI_PRIORITY_NORMAL = 0, BEI_PRIORITY_HIGH = 1 };

/*
 * bei_call_options.aggregation: how bei_predict_tokens_texts joins tokens to entities, as transformers'
 * TokenClassificationPipeline does. Labels B-X and I-X have the tag X; what follows joins what has the same tag
 * before it, unless its label is B-X.
 */
enum {
  BEI_AGGREGATE_NONE = 0,    /* each token is one */
  BEI_AGGREGATE_SIMPLE = 1,  /* tokens of one tag are joined */
  BEI_AGGREGATE_FIRST = 2,   /* words of one tag are; a word's label is that of its first token */
  BEI_AGGREGATE_AVERAGE = 3, /* ... of the mean of its tokens' scores */
  BEI_AGGREGATE_MAX = 4      /* ... of its token with the highest score */
};

/* ---- Types ---- */

typedef uint64_t bei_handle; /* an open backend: a model on an engine */
typedef uint64_t bei_result; /* outputs of unknown size of one call */
typedef uint64_t bei_cancel; /* a cancel token, for any number of calls */

typedef struct bei_error bei_error;

/*
 * A batch of token sequences, packed without padding: the Batch of the text-embeddings-inference family, field by
 * field. T = total_tokens, n = num_sequences. Item i has the tokens cumulative_seq_lengths[i] ..
 * cumulative_seq_lengths[i+1]-1.
 *
 * The index lists say what each item wants. Each must be strictly ascending. An item may be in several lists, and an
 * item in no list gets BEI_INVALID_ARGUMENT. A zero-token item gets BEI_EMPTY where a pooled or sparse vector is
 * wanted, and zero token vectors where only those are. bei_predict wants every item pooled: raw_indices and
 * sparse_indices must be empty.
 */
typedef struct bei_batch {
  size_t struct_size;
  const uint32_t *input_ids;      /* [T] */
  const uint32_t *token_type_ids; /* [T], or NULL: all zero */
  const uint32_t *position_ids;   /* [T], or NULL: counted from bei_info.position_offset in each item */
  size_t total_tokens;
  const uint32_t *cumulative_seq_lengths; /* [n + 1]: first 0, last T, never falling */
  size_t num_sequences;
  const uint32_t *pooled_indices; /* items that want one vector; NULL with num_pooled = 0 */
  size_t num_pooled;
  const uint32_t *raw_indices; /* items that want every token's vector */
  size_t num_raw;
  const uint32_t *sparse_indices; /* items that want vocabulary weights */
  size_t num_sparse;
  uint32_t max_length; /* tokens of the longest item, or 0: counted by the library; another value must be right */
  uint32_t reserved;   /* 0 */
} bei_batch;

#define BEI_BATCH_INIT {sizeof(bei_batch), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* One text, or a pair of texts, and what is wanted of it. */
typedef struct bei_text {
  const char *text; /* UTF-8, [text_size] bytes */
  size_t text_size;
  const char *pair; /* the second text of a pair, or NULL: no pair; with pair_size 0 it is an empty second text */
  size_t pair_size;
  uint32_t outputs;  /* BEI_OUTPUT_* bits; 0: pooled */
  uint32_t reserved; /* 0 */
} bei_text;

/* A part of a text in Unicode code points: start is its first, end is one past its last. */
typedef struct bei_span {
  uint32_t start;
  uint32_t end;
} bei_span;

/*
 * Options of one call. Every zero means the default. A NULL pointer to options means all defaults.
 *
 * prompt_name with pairs is an error, but for a reranker whose template has a place for an instruction: there it names that.
 *
 * dynamic_batching BEI_OFF is for routers, which form batches themselves: no run holds items of such a call and of another one, so that
 * a run that hangs or fails is of one batch only.
 *
 * caller_runs BEI_ON lets the engine run a batch of tokens in the calling thread, on its stack, where a slot is free and nothing waits:
 * that saves two switches of threads. Such a call returns with its run, even where that never ends (the slot counts as hung meanwhile),
 * so it is for callers that watch their calls. It has no effect with a timeout or a cancel token.
 */
typedef struct bei_call_options {
  size_t struct_size;
  uint64_t timeout_us;     /* from entry to return; 0: the init option queue.timeout_ms */
  bei_cancel cancel;       /* 0: none */
  const char *prompt_name; /* UTF-8: a prompt of the model, for each text; for pairs see above. NULL: default */
  size_t prompt_name_size;
  int32_t truncate;            /* BEI_ON cuts texts to max_length, BEI_OFF makes them BEI_TOO_LONG */
  int32_t truncation_side;     /* BEI_SIDE_* */
  uint32_t dimensions;         /* cut pooled vectors to the first numbers (Matryoshka), then normalise; 0: all */
  int32_t normalize;           /* pooled vectors to length 1 (L2), or not; default: as the model's modules say */
  int32_t priority;            /* BEI_PRIORITY_* */
  int32_t add_special_tokens;  /* bei_tokenize: default BEI_ON */
  int32_t skip_special_tokens; /* bei_decode: default BEI_ON */
  int32_t aggregation;         /* BEI_AGGREGATE_* */
  int32_t dynamic_batching;    /* default BEI_ON: runs may also hold items of other calls; BEI_OFF: see above */
  int32_t caller_runs;         /* default BEI_OFF; BEI_ON: see above */
} bei_call_options;

#define BEI_CALL_OPTIONS_INIT {sizeof(bei_call_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/*
 * What a router needs to know of an open backend. bei_info_json tells the rest. Constant while the backend is open.
 */
typedef struct bei_info {
  size_t struct_size;
  uint32_t api_version;
  uint32_t model_type;       /* BEI_MODEL_* */
  uint32_t pooling;          /* BEI_POOLING_* */
  uint32_t dimensions;       /* floats of a pooled vector; 0 for other model types */
  uint32_t token_dimensions; /* floats of a token vector, or labels of a token classifier */
  uint32_t labels;           /* classes; 0 for embedding models */
  uint32_t vocab_size;       /* token ids are below it */
  uint32_t type_vocab_size;  /* token type ids are below it */
  uint32_t position_offset;  /* position id of an item's first token */
  uint32_t max_length;       /* tokens of an item, special ones included */
  uint32_t max_tokens;       /* tokens of one engine run; larger batches are split inside */
  uint32_t max_sequences;    /* items of one engine run */
  uint32_t best_tokens;      /* tokens a run that were measured or known to be fastest */
  uint32_t slots;            /* runs in flight: replicas x batches. A router keeps this many batch calls out */
  uint32_t is_padded;        /* 1: a batch costs items x longest, 0: the sum of tokens */
  uint32_t has_tokenizer;    /* 1: the calls that take texts work */
  uint32_t normalizes;       /* 1: normalize's default is on */
  uint32_t reserved;
} bei_info;

#define BEI_INFO_INIT {sizeof(bei_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/*
 * The tokens of one item. Pointers live as long as the result. A reranker's template makes one text of a pair: all its
 * tokens but those of the template's end, which are special, are then of that text.
 */
typedef struct bei_tokens {
  size_t struct_size;
  size_t count;
  const uint32_t *ids;           /* [count] */
  const uint32_t *type_ids;      /* [count] */
  const uint8_t *special;        /* [count] 1: added by the template, not from the text */
  const uint8_t *sequence;       /* [count] 0: of the text, 1: of its pair, 255: of neither */
  const uint32_t *starts;        /* [count] first Unicode code point of the token in prompt + text (or in pair) */
  const uint32_t *ends;          /* [count] one past its last code point; 0, 0 for special tokens */
  const char *pieces;            /* the vocabulary's spellings one after another, UTF-8 */
  const uint32_t *piece_offsets; /* [count + 1] where piece k begins; piece k + 1 begins where it ends */
} bei_tokens;

#define BEI_TOKENS_INIT {sizeof(bei_tokens), 0, 0, 0, 0, 0, 0, 0, 0, 0}

/*
 * A span of a text that a token classifier named. What is called "O" is left out. label is an index into bei_info_json's
 * labels; with an aggregation it is that of the first token or word, and the name is in entity_groups there, by the
 * same index.
 */
typedef struct bei_entity {
  uint32_t label;
  float score;    /* 0 .. 1: softmax over the labels; the mean of what was joined */
  uint32_t start; /* first code point in prompt + text */
  uint32_t end;   /* one past the last */
  uint32_t token; /* index of its first token */
  uint32_t reserved;
} bei_entity;

/* Where the time of one call went. Stages overlap between items, so they need not add up. */
typedef struct bei_stats {
  size_t struct_size;
  uint64_t total_ns;        /* entry to return */
  uint64_t tokenization_ns; /* longest of the items */
  uint64_t queue_ns;        /* mean of the items: ready until its run began */
  uint64_t inference_ns;    /* mean of the items: its run */
  uint64_t tokens;          /* computed, special ones included */
  uint64_t runs;            /* engine runs that held items of the call */
} bei_stats;

#define BEI_STATS_INIT {sizeof(bei_stats), 0, 0, 0, 0, 0, 0}

/*
 * Receives one log line. level: BEI_LOG_*. line: one JSON object, UTF-8, [size] bytes, valid during the call only.
 * Called from a thread of the library, one call at a time, under no lock. It must return soon and must not call this
 * library (such a call gets BEI_INVALID_ARGUMENT, NULL or 0). Lines that arrive while 1024 wait are dropped, as are
 * those that wait when another callback is set; their number is logged and is in the metrics.
 */
typedef void (*bei_log_fn)(void *user, int32_t level, const char *line, size_t size);

/* ---- Library ---- */

/*
 * bei_api_version returns the interface version of the loaded library: functions since that version are there.
 * Works after fork. Since 1.
 */
uint32_t bei_api_version(void);

/* bei_version returns the library's version, "1.2.3", as a static C string. Works after fork. Since 1. */
const char *bei_version(void);

/* bei_options_schema returns the JSON Schema (draft 2020-12) of bei_init's options as a static C string. Since 1. */
const char *bei_options_schema(void);

/*
 * bei_set_log_callback sends all log lines of the process to fn; NULL sends them to stderr again. When it returns,
 * the callback set before is not running and will not be called again. user is passed through and stays the caller's.
 * Returns: NULL; BEI_INVALID_ARGUMENT from inside a log callback. Since 1.
 */
bei_error *bei_set_log_callback(bei_log_fn fn, void *user);

/* ---- Errors ---- */

/* bei_error_code returns the BEI_* code of an error; BEI_OK for NULL. Since 1. */
int32_t bei_error_code(const bei_error *error);

/* bei_error_message returns the error's text as a C string that lives as long as the error; "" for NULL. Since 1. */
const char *bei_error_message(const bei_error *error);

/* bei_error_free releases an error. NULL is allowed. An error is freed once, like memory of malloc(). Since 1. */
void bei_error_free(bei_error *error);

/* bei_status_name returns a static C string such as "TOO_LONG" for a BEI_* code; "UNKNOWN" for others. Since 1. */
const char *bei_status_name(int32_t status);

/* ---- Backends ---- */

/*
 * bei_init opens a model on an engine and warms it up, which may take seconds to minutes.
 * options, options_size: one JSON object, see bei_options_schema; "model" (a folder, or a model's id on a Hugging Face
 * hub where there is no such folder) is its only needed key, and unknown keys are refused. Only a model that is named by
 * its id makes the library use the network, for files that the cache lacks; {"hub": {"offline": true}} forbids it.
 * backend: receives the handle; bei_shutdown ends it. Several backends may be open.
 * Returns: NULL; BEI_INVALID_ARGUMENT, BEI_UNSUPPORTED, BEI_NO_BACKEND, BEI_START, BEI_WEIGHTS_NOT_FOUND. Since 1.
 */
bei_error *bei_init(const char *options, size_t options_size, bei_handle *backend);

/*
 * bei_shutdown ends a backend: new calls are refused, calls under way may finish for timeout_ms, the rest gets
 * BEI_SHUT_DOWN, and all memory is released. The handle is stale as soon as the function is entered. Results and
 * errors made before stay valid. A run that was told to stop and does not is waited for five seconds; an engine that is
 * being opened, for items whose results are not finite, until it is open, two minutes at most.
 * Returns: NULL when all calls had finished; BEI_TIMEOUT when some were cut off (the backend is closed all the same);
 * BEI_UNHEALTHY when a run never returned (the engine's memory stays); BEI_INVALID_HANDLE. Since 1.
 */
bei_error *bei_shutdown(bei_handle backend, uint64_t timeout_ms);

/*
 * bei_get_info fills info, whose struct_size must be set. Returns: NULL; BEI_INVALID_HANDLE, BEI_INVALID_ARGUMENT.
 * Since 1.
 */
bei_error *bei_get_info(bei_handle backend, bei_info *info);

/*
 * bei_info_json gives everything known of the backend (model, modules, prompts, labels, limits, engine and why it was
 * chosen, device, versions) as one JSON object: bei_result_text(result, 0, ..). The caller frees the result. Since 1.
 */
bei_error *bei_info_json(bei_handle backend, bei_result *result);

/*
 * bei_health tells whether the backend works. deep 0: cheap, from what past runs and the device told; takes
 * microseconds (a GPU driver that hangs: two seconds, once). deep 1: runs one token through whichever slot of the engine
 * is free first, then as 0. Only timeout_us and cancel of options are used.
 * Returns: NULL: healthy; BEI_UNHEALTHY with the reason, BEI_TIMEOUT, BEI_OVERLOADED, BEI_CANCELLED, BEI_SHUT_DOWN,
 * BEI_INVALID_HANDLE. Since 1.
 */
bei_error *bei_health(bei_handle backend, int32_t deep, const bei_call_options *options);

/*
 * bei_metrics gives all metrics in Prometheus' text format: bei_result_text(result, 0, ..). The caller frees the
 * result. Since 1.
 */
bei_error *bei_metrics(bei_handle backend, bei_result *result);

/* ---- Token batches ---- */

/*
 * bei_embed computes embeddings of token sequences. Shapes: n = batch->num_sequences, d = options->dimensions, or
 * bei_info.dimensions where that is 0.
 *
 * pooled:      [n x d] floats, or NULL where num_pooled is 0. Row i belongs to item i; rows of items that asked for
 *              no pooled vector or failed are not written. pooled_size counts floats and must be at least n x d.
 * item_status: [n], or NULL: see ERRORS above. item_status_size counts entries.
 * result:      receives a result with token vectors, sparse weights, messages and stats, which the caller frees;
 *              NULL is allowed where num_raw and num_sparse are 0.
 *
 * A batch larger than one engine run is split, and the runs overlap. A failing item costs the others nothing.
 * Returns: NULL, also where items failed; BEI_INVALID_ARGUMENT, BEI_INVALID_HANDLE, BEI_BUFFER_TOO_SMALL,
 * BEI_UNSUPPORTED (the model does not embed), BEI_OVERLOADED, BEI_TIMEOUT, BEI_CANCELLED, BEI_SHUT_DOWN,
 * BEI_UNHEALTHY (those five when no item was done; else the late items carry the code). Since 1.
 */
bei_error *bei_embed(bei_handle backend, const bei_batch *batch, const bei_call_options *options, float *pooled,
                     size_t pooled_size, int32_t *item_status, size_t item_status_size, bei_result *result);

/*
 * bei_predict computes raw class logits of token sequences: logits is [n x labels], otherwise as bei_embed. Softmax
 * or sigmoid are the caller's. Since 1.
 */
bei_error *bei_predict(bei_handle backend, const bei_batch *batch, const bei_call_options *options, float *logits,
                       size_t logits_size, int32_t *item_status, size_t item_status_size, bei_result *result);

/*
 * bei_predict_tokens computes raw logits of every token: bei_result_token_vectors(result, i, ..) is [tokens x
 * labels]. Items are chosen by raw_indices; the other lists must be empty. Otherwise as bei_embed. Since 1.
 */
bei_error *bei_predict_tokens(bei_handle backend, const bei_batch *batch, const bei_call_options *options,
                              int32_t *item_status, size_t item_status_size, bei_result *result);

/* ---- Texts ---- */

/*
 * bei_embed_texts tokenizes texts (with the model's prompt, truncation and template) and computes their embeddings.
 * texts: [n]. Otherwise as bei_embed; result may be NULL where every item wants only BEI_OUTPUT_POOLED. Since 1.
 */
bei_error *bei_embed_texts(bei_handle backend, const bei_text *texts, size_t n, const bei_call_options *options,
                           float *pooled, size_t pooled_size, int32_t *item_status, size_t item_status_size,
                           bei_result *result);

/*
 * bei_embed_spans computes a vector for each span of each text from one forward pass over the whole text, so that each
 * span's vector knows what is round it (late chunking). m = num_spans, d as for bei_embed.
 *
 * texts:            [n], no pairs; outputs must be 0 or BEI_OUTPUT_POOLED.
 * spans:            [m], of the first text, then of the second, ... Spans may overlap, be in any order, leave parts out.
 * cumulative_spans: [n + 1]: text i has spans cumulative_spans[i] .. cumulative_spans[i+1]-1. First 0, last m.
 * vectors:          [m x d] floats: row k is of span k. Rows of items that failed may have been written.
 *
 * A token belongs to the spans that its last code point lies in, so that parts that follow each other share none;
 * special tokens and the prompt belong to none. Its tokens' vectors are pooled as the model pools a text's, by their
 * mean where that takes the first token, then cut and normalised as for bei_embed.
 *
 * An item fails as a whole: BEI_INVALID_ARGUMENT for no span at all, one that ends at or before its start or beyond the
 * text, and for spans that together hold more than 64 times the item's tokens; BEI_EMPTY for a span without a token
 * (white space, a part of a token, or what truncation cut off).
 * Returns as bei_embed, and BEI_UNSUPPORTED where vectors are more than a pooling of token vectors: models with modules
 * between pooling and normalisation, joined poolings, sparse models, bge-m3. result receives messages and stats, and may
 * be NULL. Since 1.
 */
bei_error *bei_embed_spans(bei_handle backend, const bei_text *texts, size_t n, const bei_span *spans, size_t num_spans,
                           const uint32_t *cumulative_spans, const bei_call_options *options, float *vectors,
                           size_t vectors_size, int32_t *item_status, size_t item_status_size, bei_result *result);

/* bei_predict_texts tokenizes texts or pairs and computes their class logits, as bei_predict. Since 1. */
bei_error *bei_predict_texts(bei_handle backend, const bei_text *texts, size_t n, const bei_call_options *options,
                             float *logits, size_t logits_size, int32_t *item_status, size_t item_status_size,
                             bei_result *result);

/*
 * bei_predict_tokens_texts tokenizes texts and names their spans: bei_result_entities, bei_result_token_vectors
 * (logits) and bei_result_tokens are there for each item that is ok; texts[i].outputs is not used. Pairs are an error. Since 1.
 */
bei_error *bei_predict_tokens_texts(bei_handle backend, const bei_text *texts, size_t n,
                                    const bei_call_options *options, int32_t *item_status, size_t item_status_size,
                                    bei_result *result);

/*
 * bei_tokenize gives the tokens of each text: bei_result_tokens. It waits for no engine. Without truncate, all
 * tokens are given, however many. texts[i].outputs is not used. Errors are as bei_embed's. Since 1.
 */
bei_error *bei_tokenize(bei_handle backend, const bei_text *texts, size_t n, const bei_call_options *options,
                        int32_t *item_status, size_t item_status_size, bei_result *result);

/*
 * bei_decode turns token ids back into texts: bei_result_text(result, i, ..). ids: [cumulative_lengths[n]], packed;
 * ids_size is its length. cumulative_lengths: [n + 1], first 0, never falling, last = ids_size. Errors are as
 * bei_embed's. Since 1.
 */
bei_error *bei_decode(bei_handle backend, const uint32_t *ids, size_t ids_size, const uint32_t *cumulative_lengths,
                      size_t n, const bei_call_options *options, int32_t *item_status, size_t item_status_size,
                      bei_result *result);

/* ---- Results ---- */

/*
 * Accessors of a result. Pointers live until bei_result_free. For a stale result, an index out of range, a failed
 * item or an output that was not asked for they return NULL (or 0, or BEI_INVALID_HANDLE / BEI_INVALID_ARGUMENT
 * where they return an error), and write zero to counts. Out-pointers may be NULL. Freeing a result while another
 * thread reads it is the caller's race.
 */

/* bei_result_count returns the number of items. Since 1. */
size_t bei_result_count(bei_result result);

/* bei_result_item_message returns why item i failed, as a C string; "" for an item that is ok. Since 1. */
const char *bei_result_item_message(bei_result result, size_t i);

/*
 * bei_result_token_vectors returns item i's token vectors, [rows x columns] floats, row-major: the last hidden state of
 * every token. bge-m3's are for late interaction (ColBERT) instead: of every token but the first, always normalised.
 * Since 1.
 */
const float *bei_result_token_vectors(bei_result result, size_t i, size_t *rows, size_t *columns);

/*
 * bei_result_sparse returns item i's vocabulary weights above zero: values, with their token ids ascending in *ids.
 * NULL and a count of 0 where there is none. Since 1.
 */
const float *bei_result_sparse(bei_result result, size_t i, const uint32_t **ids, size_t *count);

/* bei_result_tokens fills tokens (struct_size set) with item i's tokens. Since 1. */
bei_error *bei_result_tokens(bei_result result, size_t i, bei_tokens *tokens);

/* bei_result_entities returns item i's entities in text order. Since 1. */
const bei_entity *bei_result_entities(bei_result result, size_t i, size_t *count);

/* bei_result_text returns item i's text, also followed by a NUL that *size does not count. Since 1. */
const char *bei_result_text(bei_result result, size_t i, size_t *size);

/*
 * bei_result_stats fills stats (struct_size set). Returns: NULL; BEI_INVALID_HANDLE, BEI_INVALID_ARGUMENT. Since 1.
 */
bei_error *bei_result_stats(bei_result result, bei_stats *stats);

/* bei_result_free releases a result. Zero and stale results are ignored, so freeing twice is harmless. Since 1. */
void bei_result_free(bei_result result);

/* ---- Cancelling ---- */

/*
 * bei_cancel_new makes a cancel token, to be put in bei_call_options of any number of calls. Freed by the caller.
 * Since 1.
 */
bei_error *bei_cancel_new(bei_cancel *cancel);

/*
 * bei_cancel_trigger makes all calls with the token return soon, now and later: items not done get BEI_CANCELLED.
 * Runs under way on the engine are not torn down; their results are dropped. Triggering twice is harmless. Since 1.
 */
bei_error *bei_cancel_trigger(bei_cancel cancel);

/*
 * bei_cancel_free releases a token; calls that use it go on, uncancelled. Zero and stale tokens are ignored. Since 1.
 */
void bei_cancel_free(bei_cancel cancel);

#ifdef __cplusplus
}
#endif

#endif /* BEI_H */
