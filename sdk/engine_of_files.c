/* An engine in C, as far as a trace goes: it has its tensors in memory and hands each over with pt_put.
 *
 *   cc -std=c99 -D_DEFAULT_SOURCE -I sdk sdk/engine_of_files.c -o engine && ./engine TENSORS TRACE
 *
 * Its tensors come from TENSORS/index.txt, where your engine computes them. Lines, in any order:
 *   run FAMILY LAYERS RECIPE LINEAGE_ROOT REQUEST     hyper NAME VALUE     conversion TEXT
 *   ids ID ID ...                                     tensor STAGE LAYER DTYPE EXPERT_ROWS FILE SIZE SIZE ...
 * FILE holds the bytes; of expert rows FILE.position (int64), FILE.slot and FILE.expert (int32) say which rows they are.
 */
#define PARITY_TRACE_IMPLEMENTATION
#include "parity_trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 512, LINE = 65536 };

static char stages[MOST][32], files[MOST][64], dtypes[MOST][16], names[MOST][64], conversion[4][512];
static size_t shapes[MOST][PT_MAX_AXES];
static int axes[MOST], expert_rows[MOST];
static pt_site sites[MOST];
static pt_number hyper[MOST];
static const char *conversions[4];
static int64_t ids[LINE];

static void *load(const char *folder, const char *file, const char *ending) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s%s", folder, file, ending);
  FILE *in = fopen(path, "rb");
  if (!in) { perror(path); exit(2); }
  fseek(in, 0, SEEK_END);
  size_t size = (size_t)ftell(in);
  rewind(in);
  void *data = malloc(size ? size : 1);
  if (!data || fread(data, 1, size, in) != size) { perror(path); exit(2); }
  fclose(in);
  return data;
}

static pt_dtype dtype(const char *name) {
  if (!strcmp(name, "float32")) return PT_F32;
  if (!strcmp(name, "bfloat16")) return PT_BF16;
  if (!strcmp(name, "float16")) return PT_F16;
  if (!strcmp(name, "int32")) return PT_I32;
  if (!strcmp(name, "int64")) return PT_I64;
  fprintf(stderr, "dtype %s\n", name);
  exit(2);
}

int main(int argc, char **argv) {
  static char line[LINE * 8], family[64], recipe[64], root[128], name[128];
  size_t tensors = 0;
  pt_request request = {name, ids, 0};
  pt_run run;
  pt_run_init(&run);
  if (argc != 3) { fprintf(stderr, "usage: %s TENSORS TRACE\n", argv[0]); return 2; }
  snprintf(line, sizeof line, "%s/index.txt", argv[1]);
  FILE *index = fopen(line, "r");
  if (!index) { perror(line); return 2; }
  while (tensors < MOST && run.hyper_count < MOST && run.conversion_count < 4 && fgets(line, sizeof line, index)) {
    int read = 0, wide = 0;
    if (sscanf(line, "run %63s %d %63s %127s %127s", family, &run.layers, recipe, root, name) == 5) continue;
    if (sscanf(line, "hyper %63s %lf", names[run.hyper_count], &hyper[run.hyper_count].value) == 2) {
      hyper[run.hyper_count].key = names[run.hyper_count];
      run.hyper_count++;
    } else if (sscanf(line, "conversion %511[^\n]", conversion[run.conversion_count]) == 1) {
      conversions[run.conversion_count] = conversion[run.conversion_count];
      run.conversion_count++;
    } else if (!strncmp(line, "ids ", 4)) {
      for (char *at = line + 3, *end; ids[request.count] = strtoll(at, &end, 10), end != at; at = end) request.count++;
    } else if (sscanf(line, "tensor %31s %d %15s %d %63s%n", stages[tensors], &sites[tensors].layer, dtypes[tensors],
                      &expert_rows[tensors], files[tensors], &read) == 5) {
      for (char *at = line + read; sscanf(at, "%zu%n", &shapes[tensors][axes[tensors]], &wide) == 1; at += wide)
        axes[tensors]++;
      sites[tensors].stage = stages[tensors];
      tensors++;
    }
  }
  fclose(index);
  run.family = family;
  run.model = "an engine in C";
  run.recipe = recipe;
  run.lineage_root = root;
  run.conversions = conversions;
  run.hyper = hyper;
  run.requests = &request;
  run.request_count = 1;
  run.declared = sites;
  run.declared_count = tensors;
  if (pt_open(argv[2], &run)) { fprintf(stderr, "%s\n", pt_error()); return 1; }

  pt_step("prefill", 0, 0);
  for (size_t n = 0; n < tensors; n++) {
    pt_capture capture;
    pt_capture_init(&capture, stages[n], sites[n].layer, dtype(dtypes[n]), axes[n], shapes[n]);
    if (expert_rows[n]) {
      capture.position = load(argv[1], files[n], ".position");
      capture.slot = load(argv[1], files[n], ".slot");
      capture.expert = load(argv[1], files[n], ".expert");
    }
    void *data = load(argv[1], files[n], "");
    pt_put(&capture, data);
    free(data);
    free((void *)capture.position);
    free((void *)capture.slot);
    free((void *)capture.expert);
  }
  if (pt_close(1)) { fprintf(stderr, "%s (%zu refused)\n", pt_error(), pt_refused()); return 1; }
  return 0;
}
