// How errors travel inside the shim: as exceptions up to the C boundary, where guard makes bei_trt_error of them.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "../shim.h"

namespace bei {

struct Failure : std::exception {
  int32_t code;
  std::string text;
  Failure(int32_t code, std::string text) : code(code), text(std::move(text)) {}
  const char *what() const noexcept override { return text.c_str(); }
};

__attribute__((format(printf, 2, 3))) [[noreturn]] inline void fail(int32_t code, const char *format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Failure(code, text);
}

// What TensorRT logged as an error on this thread, or on another one, since forgetLogged.
std::string lastLogged();
void forgetLogged();

inline int32_t report(bei_trt_error *error, int32_t code, const char *text) {
  if (error == nullptr)
    return code;
  error->code = code;
  const std::string logged = lastLogged();
  if (logged.empty() || strstr(text, logged.c_str()) != nullptr)
    snprintf(error->text, sizeof error->text, "%s", text);
  else
    snprintf(error->text, sizeof error->text, "%s: %s", text, logged.c_str());
  return code;
}

// Runs f; nothing that it throws gets out.
template <typename F> int32_t guard(bei_trt_error *error, F &&f) noexcept {
  try {
    forgetLogged();
    f();
    return 0;
  } catch (const Failure &failure) {
    return report(error, failure.code, failure.text.c_str());
  } catch (const std::bad_alloc &) {
    return report(error, BEI_TRT_NO_MEMORY, "out of host memory");
  } catch (const std::exception &failure) {
    return report(error, BEI_TRT_FAILED, failure.what());
  } catch (...) {
    return report(error, BEI_TRT_FAILED, "unknown C++ exception");
  }
}

} // namespace bei
