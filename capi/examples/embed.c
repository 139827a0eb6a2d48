/* gcc embed.c -Iinclude -Ldist -lbei -lm && LD_LIBRARY_PATH=dist ./a.out .deps/models/all-MiniLM-L6-v2 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bei.h"

static int failed(bei_error *error) {
  if (error == NULL)
    return 0;
  fprintf(stderr, "%s: %s\n", bei_status_name(bei_error_code(error)), bei_error_message(error));
  bei_error_free(error);
  return 1;
}

int main(int argc, char **argv) {
  char options[4096];
  snprintf(options, sizeof options, "{\"model\": \"%s\"}", argc > 1 ? argv[1] : "model");
  bei_handle backend;
  if (failed(bei_init(options, strlen(options), &backend)))
    return 1;
  const char *a = "A cat sits on the mat.", *b = "There is a cat on the rug.";
  bei_text texts[2] = {{a, strlen(a), NULL, 0, 0, 0}, {b, strlen(b), NULL, 0, 0, 0}};
  float vectors[2][384]; /* bei_info.dimensions */
  if (failed(bei_embed_texts(backend, texts, 2, NULL, vectors[0], 2 * 384, NULL, 0, NULL)))
    return 1;
  double dot = 0; /* the vectors have length 1, so this is their cosine */
  for (int i = 0; i < 384; i++)
    dot += vectors[0][i] * vectors[1][i];
  printf("cosine %.4f, angle %.1f degrees\n", dot, acos(dot) * 180 / acos(-1));
  return failed(bei_shutdown(backend, 1000));
}
