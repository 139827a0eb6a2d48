/* gcc embed.c -Iinclude -Ldist -lbei -lm && LD_LIBRARY_PATH=dist ./a.out .deps/models/all-MiniLM-L6-v2 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bei.h"

/* Errors are the caller's: print and end. */
static void check(bei_error *error) {
  if (error == NULL)
    return;
  fprintf(stderr, "%s: %s\n", bei_status_name(bei_error_code(error)), bei_error_message(error));
  bei_error_free(error);
  exit(1);
}

int main(int argc, char **argv) {
  char options[4096];
  snprintf(options, sizeof options, "{\"model\": \"%s\", \"log\": {\"level\": \"error\"}}",
           argc > 1 ? argv[1] : "model");
  bei_handle backend;
  check(bei_init(options, strlen(options), &backend));
  bei_info info = BEI_INFO_INIT;
  check(bei_get_info(backend, &info));

  const char *a = "A cat sits on the mat.", *b = "There is a cat on the rug.";
  bei_text texts[2] = {{a, strlen(a), NULL, 0, 0, 0}, {b, strlen(b), NULL, 0, 0, 0}};
  size_t d = info.dimensions;
  float *vectors = malloc(2 * d * sizeof *vectors);
  if (vectors == NULL)
    return 1;
  check(bei_embed_texts(backend, texts, 2, NULL, vectors, 2 * d, NULL, 0, NULL));

  float cosine = 0; /* the vectors have length 1 */
  for (size_t i = 0; i < d; i++)
    cosine += vectors[i] * vectors[d + i];
  printf("%zu dimensions, cosine %.4f\n", d, cosine);
  free(vectors);
  check(bei_shutdown(backend, 1000));
}
