/* An engine for the tests of sdk/parity_trace.h: writes layers of captures, hostile ones, or until it is killed. */
#define PARITY_TRACE_IMPLEMENTATION
#include "parity_trace.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOKENS = 5, HIDDEN = 4, SLOTS = 2, EXPERTS = 4, WIDTH = 3 };

static float value(unsigned seed, unsigned n) { return (float)((seed * 2654435761u + n * 40503u) >> 8) / 16777216.0f; }
static const int32_t slot[10] = {0, 1, 0, 0, 1, 0, 0, 1, 1, 1};
static const int32_t expert[10] = {0, 0, 0, 1, 1, 2, 2, 2, 3, 3};
static const int64_t position[10] = {3, 0, 4, 1, 2, 2, 0, 1, 3, 4};
static const int64_t offsets[EXPERTS + 1] = {0, 3, 5, 8, 10};
static const int32_t slot1[2] = {0, 1}, expert1[2] = {1, 3};
static const int64_t offsets1[EXPERTS + 1] = {0, 0, 1, 1, 2};
static const int64_t ids[TOKENS] = {7, 1, 2, 3, 4};

static void put(const pt_capture *capture, const void *data) {
#ifdef PARITY_TRACE_CUDA
  /* From device memory where there is a device (or the test's stand-in for one). */
  size_t rows = capture->shape[0], size = capture->row_stride ? capture->row_stride : 0;
  void *device = NULL;
  if (!size) {
    size = pt_dtypes_[capture->dtype].size;
    for (int n = 1; n < capture->axes; n++) size *= capture->shape[n];
  }
  if (!data || !rows) { pt_put(capture, data); return; }
  if (cudaMalloc(&device, rows * size) != cudaSuccess) { fprintf(stderr, "no device\n"); exit(4); }
  cudaMemcpy(device, data, rows * size, cudaMemcpyHostToDevice);
  pt_put_device(capture, device, 0);
  cudaFree(device);
#else
  pt_put(capture, data);
#endif
}

static void forward(int layers, const char *phase, int step, int first, int tokens, int fast) {
  float row[10 * 8], wide[TOKENS * HIDDEN * 2];
  size_t two[2];
  int64_t position1[2];
  pt_capture c;
  position1[0] = position1[1] = first;
  pt_step(phase, step, 0);
  for (int layer = 0; layer < layers; layer++) {
    for (unsigned n = 0; n < (unsigned)(tokens * HIDDEN); n++) {
      wide[n / HIDDEN * HIDDEN * 2 + n % HIDDEN] = value((unsigned)(layer + 100 * step), n);
      wide[n / HIDDEN * HIDDEN * 2 + HIDDEN + n % HIDDEN] = -1.0f; /* the other half of a fused tensor */
    }
    two[0] = (size_t)tokens; two[1] = HIDDEN;
    pt_capture_init(&c, "attn.norm", layer, PT_F32, 2, two);
    c.first_position = first;
    c.row_stride = HIDDEN * 2 * sizeof(float);
    put(&c, wide);
    for (unsigned n = 0; n < 10 * WIDTH; n++) row[n] = value((unsigned)layer + 50, n);
    two[0] = step ? 2 : 10; two[1] = WIDTH;
    for (int which = 0; which < 2; which++) {
      pt_capture_init(&c, which ? "moe.up" : "moe.gate", layer, PT_F32, 2, two);
      c.position = step ? position1 : position; c.slot = step ? slot1 : slot; c.expert = step ? expert1 : expert;
      c.tile_m = 64; c.expert_offsets = step ? offsets1 : offsets; c.expert_offset_count = EXPERTS + 1;
      c.grid[0] = 2; c.grid[1] = 1; c.grid[2] = 1;
      put(&c, row);
    }
    unsigned char half[TOKENS * SLOTS];
    for (unsigned n = 0; n < sizeof half; n++) half[n] = (unsigned char)(n % EXPERTS);
    two[0] = (size_t)tokens; two[1] = SLOTS;
    pt_capture_init(&c, "moe.topk_ids", layer, PT_U8, 2, two); /* leaves the payload off its alignment */
    c.first_position = first;
    put(&c, half);
    if (!fast) usleep(20000);
  }
}

static void *many(void *from) {
  for (int n = 0; n < 10; n++) forward(1, "decode", 1 + n + 100 * *(int *)from, 5, 1, 1);
  return NULL;
}

static int hostile(void) {
  static char longer[70000];
  size_t two[2] = {TOKENS, HIDDEN};
  float data[TOKENS * HIDDEN] = {0};
  int64_t wrong[TOKENS] = {0, 1, -2, 3, 4};
  int32_t other[TOKENS] = {0, 0, 9, 0, 0};
  pt_capture good, c;
  size_t tried = 0;
  memset(longer, 'x', sizeof longer - 1);
  pt_capture_init(&good, "attn.norm", 0, PT_F32, 2, two);
#define REFUSED(change, data) do { c = good; change; tried++; \
    if (pt_put(&c, data) != -1 || pt_refused() != tried) { printf("not refused: %s\n", #change); return 1; } } while (0)
  REFUSED(c.stage = "../../etc/passwd", data);
  REFUSED(c.stage = longer, data);
  REFUSED(c.stage = NULL, data);
  REFUSED(c.stage = "attn.norm\"", data);
  REFUSED(c.layer = 3, data);
  REFUSED(c.layer = -2, data);
  REFUSED(c.dtype = (pt_dtype)99, data);
  REFUSED(c.axes = 3, data);
  REFUSED(c.axes = -1, data);
  REFUSED(c.axes = 1000, data);
  REFUSED(c.shape[1] = 0, data);
  REFUSED(c.shape[1] = (size_t)1 << 62, data);
  REFUSED(c.shape[0] = ((size_t)1 << 24) + 1, data);
  REFUSED(c.row_stride = 3, data);
  REFUSED(c.position = wrong, data);
  REFUSED(c.first_position = -1, data);
  REFUSED(c.request = other, data);
  REFUSED(c.one_request = 1, data);
  REFUSED(c.slot = other, data);
  REFUSED(c.stage = "moe.gate", data);
  REFUSED(c.tile_m = -1, data);
  REFUSED((c.expert_offsets = wrong, c.expert_offset_count = TOKENS), data);
  REFUSED(c.expert_offset_count = 3, data);
  REFUSED(c.variant = longer, data);
  REFUSED(c.variant = "\xff\xfe", data);
  REFUSED(c.grid[1] = -1, data);
  REFUSED(c.layer = 0, NULL);
  tried++;
  if (pt_step("later", 0, 0) != -1 || pt_refused() != tried) return 1;
  tried++;
  if (pt_step("decode", -1, 0) != -1 || pt_refused() != tried) return 1;
  if (!pt_on()) return 1;
  good.variant = "a \"quoted\" \\ path\n\xc3\xa4"; /* odd, and allowed */
  return pt_put(&good, data) || !pt_error()[0];
}

int main(int argc, char **argv) {
  const char *folder = argc > 1 && argv[1][0] ? argv[1] : NULL, *mode = argc > 2 ? argv[2] : "whole";
  static char longer[70000];
  pt_request request = {"a", ids, TOKENS};
  pt_site declared[12];
  pt_number hyper[2] = {{"rope_theta", 1e6}, {"nothing", 0}};
  const char *conversions[1] = {"fp8_block"};
  pt_run run;
  int layers = 3, count = 0;
  const char *stages[4] = {"attn.norm", "moe.gate", "moe.up", "moe.topk_ids"};
  for (int layer = 0; layer < layers; layer++)
    for (int n = 0; n < 4; n++) { declared[count].layer = layer; declared[count++].stage = stages[n]; }
  hyper[1].value = hyper[1].value / hyper[1].value; /* not a number */
  pt_run_init(&run);
  run.family = "qwen3_moe"; run.model = "toy \"quoted\"\t\xc3\xa9"; run.layers = layers;
  run.requests = &request; run.request_count = 1;
  run.recipe = "fp32"; run.lineage_root = "sha256:00"; run.conversions = conversions; run.conversion_count = 1;
  run.declared = declared; run.declared_count = (size_t)count;
  run.hyper = hyper; run.hyper_count = 2; run.threads = 1;
  memset(longer, 'x', sizeof longer - 1);
  if (!strcmp(mode, "long name")) request.name = longer;
  if (!strcmp(mode, "bad name")) request.name = "\xed\xa0\x80";
  if (!strcmp(mode, "bad stage")) declared[0].stage = "../x";
  if (!strcmp(mode, "bad id")) { static const int64_t bad[1] = {-5}; request.ids = bad; request.count = 1; }
  if (!strcmp(mode, "key twice")) hyper[1].key = "rope_theta";
  if (!strcmp(mode, "long folder")) folder = longer;
  if (!strcmp(mode, "full")) {
    struct rlimit limit = {30000, 30000};
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, SIG_IGN);
  }
  int opened = pt_open(folder, &run);
  if (!strcmp(mode, "hostile")) {
    int bad = opened || hostile();
    pt_close(1);
    return bad;
  }
  if (!strcmp(mode, "threads")) {
    pthread_t thread[4];
    int number[4] = {0, 1, 2, 3};
    for (int n = 0; n < 4; n++) pthread_create(&thread[n], NULL, many, &number[n]);
    for (int n = 0; n < 4; n++) pthread_join(thread[n], NULL);
  } else if (!strcmp(mode, "fork")) {
    forward(layers, "prefill", 0, 0, TOKENS, 1);
    fflush(stdout);
    if (!fork()) { forward(layers, "decode", 1, 5, 1, 1); pt_close(1); _exit(0); }
    wait(NULL);
  } else {
    forward(layers, "prefill", 0, 0, TOKENS, 1);
    for (int step = 1; strcmp(mode, "for ever") ? step <= 2 : 1; step++) {
      forward(layers, "decode", step, TOKENS + step - 1, 1, strcmp(mode, "for ever"));
      if (!strcmp(mode, "for ever") && step == 3) { printf("going\n"); fflush(stdout); }
    }
    if (!strcmp(mode, "full")) for (int step = 3; step < 40; step++) forward(layers, "decode", step, TOKENS + step - 1, 1, 1);
    if (!strcmp(mode, "killed")) { forward(layers, "decode", 3, TOKENS + 2, 1, 1); raise(SIGKILL); }
  }
  int on = pt_on(), closed = pt_close(strcmp(mode, "failed"));
  printf("opened %d on %d closed %d refused %zu error %s\n", opened, on, closed, pt_refused(), pt_error());
  return 0;
}
