/* What Go needs of trampolines.c, and nothing that leaves the library. */
#ifndef CAPI_H
#define CAPI_H

#include "bei.h"

/* A new error with a copy of message, for bei_error_free; a static one when memory is out. */
bei_error *capi_error_new(int32_t code, const char *message, size_t size);

/* Calls a log callback. fn is a bei_log_fn. Calls into the library from inside it are refused. */
void capi_call_log(uintptr_t fn, uintptr_t user, int32_t level, const char *line, size_t size);

/* Keeps the static texts. They must never be freed. */
void capi_set_texts(const char *version, const char *schema);

#endif /* CAPI_H */
