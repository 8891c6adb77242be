/* How does an engine in C, C++ or CUDA write a trace that the lab reads? One header, no library: trace format 1.

   In one source file, before every other header:      #define PARITY_TRACE_IMPLEMENTATION
                                                       #include "parity_trace.h"
   in the others the include alone. README.md has an example; docs/trace-format.md says what lands on the disk.

   Off unless pt_open() was called with a folder or PARITY_CAPTURE names one; PARITY_TRACE=off turns it off whatever the
   program says. Off, each call is a load of one flag and a branch that is not taken.

   No call aborts, prints or throws. The first thing that goes wrong is kept: pt_error() says it. A capture that the
   format does not allow is refused alone (pt_refused() counts them, the trace goes on without it); a disk that fails
   ends the trace, and what was flushed before stays readable.

   One trace a process. Calls may come from several threads: they wait for one another. A forked child writes nothing. */
#ifndef PARITY_TRACE_H
#define PARITY_TRACE_H

/* Strict ISO C declares no POSIX. Elsewhere (gnu11, C++) it is there, and this name alone would take the rest away. */
#if defined(PARITY_TRACE_IMPLEMENTATION) && defined(__STRICT_ANSI__) && !defined(_GNU_SOURCE) && \
    !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#if defined(__APPLE__) && !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE 1
#endif
#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__) && !defined(PARITY_TRACE_CUDA)
#define PARITY_TRACE_CUDA 1
#endif
#ifdef PARITY_TRACE_CUDA
#include <cuda_runtime.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PT_MAX_AXES 8

typedef enum pt_dtype {
  PT_F64, PT_F32, PT_F16, PT_BF16, PT_F8_E4M3, PT_F8_E5M2, PT_F8_E8M0, PT_I64, PT_I32, PT_I16, PT_I8, PT_U8, PT_BOOL
} pt_dtype;

typedef struct pt_request { const char *name; const int64_t *ids; size_t count; } pt_request;
typedef struct pt_text { const char *key, *value; } pt_text;
typedef struct pt_number { const char *key; double value; } pt_number;
typedef struct pt_site { int layer; const char *stage; } pt_site; /* layer -1: outside the layers */

/* What the trace is a trace of. Zero it first (pt_run_init); texts left NULL become "unknown", or "none" where the
   format says so. `recipe` is the name of the precision recipe; the texts below it default to that name. */
typedef struct pt_run {
  const char *family, *model;
  int layers;
  const pt_request *requests; size_t request_count;
  const char *recipe, *weights, *activations, *compute, *accumulate, *kv_cache, *residual;
  const char *lineage_root; const char *const *conversions; size_t conversion_count;
  const char *platform, *cpu_capability, *device; int threads;
  const pt_site *declared; size_t declared_count;
  const pt_number *hyper; size_t hyper_count;
  const pt_text *flags; size_t flag_count;
} pt_run;

/* One tensor. Zero it first (pt_capture_init gives stage, layer, dtype and shape).
   position NULL: first_position, first_position + 1, ...; request NULL: all rows are of request `one_request`.
   slot, expert: needed at stages with expert rows, and only there. row: its number in the launch, where a filter left
   rows out. All of them [shape[0]], read before the call returns. row_stride: bytes from one row to the next in memory,
   0 when dense. expert_offsets: [E + 1]. */
typedef struct pt_capture {
  const char *stage;
  int layer;                       /* absolute; -1 outside the layers */
  pt_dtype dtype;
  int axes;                        /* number of axes */
  size_t shape[PT_MAX_AXES];       /* slowest first; shape[0] is the number of rows */
  size_t row_stride;
  const int32_t *request; int32_t one_request;
  const int64_t *position; int64_t first_position;
  const int32_t *slot, *expert;
  const int64_t *row;
  int64_t tile_m;                  /* 0: none */
  const int64_t *expert_offsets; size_t expert_offset_count;
  int64_t grid[3];                 /* all 0: not given */
  const char *basis, *variant;     /* NULL: none */
  int partial, draft;              /* a sum that other ranks still add to; a draft model's tensor */
} pt_capture;

/* folder NULL: the environment variable PARITY_CAPTURE, and off when it is unset. 0, or -1 with pt_error(). */
int pt_open(const char *folder, const pt_run *run);
/* Ends the trace: with `complete` it is whole; without (the forward pass failed) it stays unfinished, and readable. */
int pt_close(int complete);
/* Why the trace, or the first capture that was refused, failed; "" while all is well. */
const char *pt_error(void);
size_t pt_refused(void);

extern int pt_on_; /* the flag; read it through pt_on() */
int pt_step_(const char *phase, int step, int chunk);
int pt_put_(const pt_capture *capture, const void *data);
int pt_flush_(void);

static inline int pt_on(void) { return pt_on_; }

/* A step begins ("prefill" with step 0, or "decode" with step 1, 2, ...): what came before goes onto the disk. */
static inline int pt_step(const char *phase, int step, int chunk) { return pt_on_ ? pt_step_(phase, step, chunk) : 0; }
/* One tensor in host memory; it is copied out before the call returns. */
static inline int pt_put(const pt_capture *capture, const void *data) { return pt_on_ ? pt_put_(capture, data) : 0; }
static inline int pt_flush(void) { return pt_on_ ? pt_flush_() : 0; }

void pt_run_init(pt_run *run);
void pt_capture_init(pt_capture *capture, const char *stage, int layer, pt_dtype dtype, int axes, const size_t *shape);

#ifdef PARITY_TRACE_CUDA
/* One tensor in device memory: copied in the order of `stream`, which is waited for. Refused while the stream is being
   captured into a graph: copy inside the graph into a buffer of your own, and put that after the replay. */
int pt_put_device_(const pt_capture *capture, const void *device, cudaStream_t stream);
static inline int pt_put_device(const pt_capture *capture, const void *device, cudaStream_t stream) {
  return pt_on_ ? pt_put_device_(capture, device, stream) : 0;
}
#endif

#ifdef __cplusplus
}
#endif
#endif /* PARITY_TRACE_H */

#if defined(PARITY_TRACE_IMPLEMENTATION) && !defined(PARITY_TRACE_IMPLEMENTED)
#define PARITY_TRACE_IMPLEMENTED
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#ifndef O_NOFOLLOW
#error "include parity_trace.h before every other header in the file that defines PARITY_TRACE_IMPLEMENTATION"
#endif

#ifdef __cplusplus
extern "C" {
#endif

int pt_on_ = 0;

enum {
  PT_ROOM = 64,                  /* least number of tensors that a shard's header keeps room for */
  PT_MOST = 50000,               /* most of them: half of what readers accept */
  PT_ENTRY = 192,                /* bytes of header for each */
  PT_TEXT = 65536,               /* longest text, bytes */
  PT_PATH = 4096,
  PT_COMPANIONS = 64             /* different row tensors of a shard that are kept to be shared */
};
#define PT_LINE ((size_t)16 << 20)        /* longest line that readers take */
#define PT_ROWS ((size_t)1 << 24)         /* most rows of a capture */
#define PT_FLUSH_BYTES ((uint64_t)256 << 20)
#define PT_FLUSH_SECONDS 2                /* a killed process loses the captures of at most this long */

/* The vocabulary and its axes, as parity/stages.py has them; a test holds both equal. */
static const char *const pt_stages_[][2] = {
/* stages begin */
  {"embed.out", "TD"}, {"attn.norm", "TD"}, {"attn.q", "THK"}, {"attn.k", "TGK"}, {"attn.v", "TGK"},
  {"attn.q_norm", "THK"}, {"attn.k_norm", "TGK"}, {"attn.q_rope", "THK"}, {"attn.k_rope", "TGK"},
  {"attn.context", "THK"}, {"attn.out", "TD"}, {"resid.mid", "TD"}, {"mlp.norm", "TD"},
  {"mlp.gate", "TF"}, {"mlp.up", "TF"}, {"mlp.act", "TF"}, {"mlp.down", "TD"},
  {"moe.router_logits", "TE"}, {"moe.topk_ids", "TS"}, {"moe.topk_weights", "TS"}, {"moe.gate", "RF"},
  {"moe.up", "RF"}, {"moe.act", "RF"}, {"moe.down", "RD"}, {"moe.experts", "TD"}, {"resid.out", "TD"},
  {"final_norm", "TD"}, {"logits", "TV"},
/* stages end */
  {NULL, NULL}
};

static const struct { const char *name, *code; size_t size; } pt_dtypes_[] = {
  {"float64", "F64", 8}, {"float32", "F32", 4}, {"float16", "F16", 2}, {"bfloat16", "BF16", 2},
  {"float8_e4m3fn", "F8_E4M3", 1}, {"float8_e5m2", "F8_E5M2", 1}, {"float8_e8m0fnu", "F8_E8M0", 1},
  {"int64", "I64", 8}, {"int32", "I32", 4}, {"int16", "I16", 2}, {"int8", "I8", 1}, {"uint8", "U8", 1},
  {"bool", "BOOL", 1}
};

typedef struct pt_buffer_ { char *text; size_t length, room; int failed; } pt_buffer_;
typedef struct pt_companion_ { void *bytes; size_t size; int wide; unsigned number; uint32_t crc; } pt_companion_;

static struct {
  char error[512];
  size_t refused;
  long pid;
  int lock;
  char folder[PT_PATH];
  int manifest, shard;             /* descriptors, -1 when closed */
  uint64_t manifest_length, payload;
  uint32_t chain;
  unsigned shards, shard_captures, companions, fillers;
  uint64_t captures, written_captures;
  int layers;
  size_t requests;
  pt_buffer_ header, lines;        /* of the open shard: its entries, and the manifest lines that name it */
  size_t entries, room;            /* tensors in the open shard, and how many its header takes */
  pt_companion_ kept[PT_COMPANIONS];
  int64_t flushed;
#ifdef PARITY_TRACE_CUDA
  void *staging;
  size_t staging_size;
#endif
} pt_;

static uint32_t pt_table_[8][256];

static uint32_t pt_crc_(uint32_t crc, const void *data, size_t size) {
  const unsigned char *byte = (const unsigned char *)data;
  crc = ~crc;
  while (size >= 8) { /* eight bytes a turn, whatever the alignment */
    uint32_t low = crc ^ ((uint32_t)byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 | (uint32_t)byte[3] << 24);
    crc = pt_table_[7][low & 255] ^ pt_table_[6][low >> 8 & 255] ^ pt_table_[5][low >> 16 & 255] ^
          pt_table_[4][low >> 24] ^ pt_table_[3][byte[4]] ^ pt_table_[2][byte[5]] ^ pt_table_[1][byte[6]] ^
          pt_table_[0][byte[7]];
    byte += 8;
    size -= 8;
  }
  while (size--) crc = pt_table_[0][(crc ^ *byte++) & 255] ^ crc >> 8;
  return ~crc;
}

static void pt_make_table_(void) {
  for (uint32_t n = 0; n < 256; n++) {
    uint32_t value = n;
    for (int bit = 0; bit < 8; bit++) value = value & 1 ? 0xEDB88320u ^ value >> 1 : value >> 1;
    pt_table_[0][n] = value;
  }
  for (int k = 1; k < 8; k++)
    for (uint32_t n = 0; n < 256; n++) pt_table_[k][n] = pt_table_[k - 1][n] >> 8 ^ pt_table_[0][pt_table_[k - 1][n] & 255];
}

static int64_t pt_seconds_(void) {
  struct timespec now;
  return clock_gettime(CLOCK_MONOTONIC, &now) ? 0 : (int64_t)now.tv_sec;
}

static void pt_lock_(void) {
  while (__sync_lock_test_and_set(&pt_.lock, 1)) { /* a capture takes milliseconds: sleep and look again */
    struct timespec nap;
    nap.tv_sec = 0;
    nap.tv_nsec = 50000;
    nanosleep(&nap, NULL);
  }
}
static int pt_unlock_(int result) {
  __sync_lock_release(&pt_.lock);
  return result;
}

/* Keeps the first error; -1. */
static int pt_wrong_(const char *format, ...) {
  if (!pt_.error[0]) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(pt_.error, sizeof pt_.error, format, arguments);
    va_end(arguments);
  }
  return -1;
}
static int pt_refuse_(const char *stage, const char *why) {
  pt_.refused++;
  return pt_wrong_("capture of %.64s refused: %s", stage ? stage : "no stage", why);
}

static void pt_add_(pt_buffer_ *buffer, const char *text, size_t length) {
  if (buffer->failed) return;
  if (buffer->length + length + 1 > buffer->room) {
    size_t room = (buffer->length + length + 1) * 2;
    char *more = (char *)realloc(buffer->text, room);
    if (!more) { buffer->failed = 1; return; }
    buffer->text = more;
    buffer->room = room;
  }
  memcpy(buffer->text + buffer->length, text, length);
  buffer->length += length;
  buffer->text[buffer->length] = 0;
}
static void pt_say_(pt_buffer_ *buffer, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0 || (size_t)length >= sizeof text) buffer->failed = 1;
  else pt_add_(buffer, text, (size_t)length);
}
static void pt_free_(pt_buffer_ *buffer) {
  free(buffer->text);
  memset(buffer, 0, sizeof *buffer);
}

/* Bytes of the UTF-8 character at `s`; 0 when it is none (half a pair of surrogates and overlong forms included). */
static size_t pt_utf8_(const unsigned char *s) {
  if (s[0] < 0x80) return 1;
  if (s[0] >= 0xC2 && s[0] <= 0xDF) return (s[1] & 0xC0) == 0x80 ? 2 : 0;
  if (s[0] >= 0xE0 && s[0] <= 0xEF) {
    unsigned low = s[0] == 0xE0 ? 0xA0 : 0x80, high = s[0] == 0xED ? 0x9F : 0xBF;
    return s[1] >= low && s[1] <= high && (s[2] & 0xC0) == 0x80 ? 3 : 0;
  }
  if (s[0] >= 0xF0 && s[0] <= 0xF4) {
    unsigned low = s[0] == 0xF0 ? 0x90 : 0x80, high = s[0] == 0xF4 ? 0x8F : 0xBF;
    return s[1] >= low && s[1] <= high && (s[2] & 0xC0) == 0x80 && (s[3] & 0xC0) == 0x80 ? 4 : 0;
  }
  return 0;
}

/* A JSON text; -1 for what is no UTF-8 or too long. */
static int pt_quote_(pt_buffer_ *buffer, const char *text) {
  size_t length = strlen(text);
  if (length > PT_TEXT) return pt_wrong_("a text of %zu bytes: at most %d", length, (int)PT_TEXT);
  pt_add_(buffer, "\"", 1);
  for (size_t at = 0; at < length;) {
    unsigned char letter = (unsigned char)text[at];
    size_t size = pt_utf8_((const unsigned char *)text + at);
    if (!size) return pt_wrong_("a text that is no UTF-8, at byte %zu", at);
    if (letter == '"' || letter == '\\') pt_add_(buffer, "\\", 1);
    if (letter < 0x20) pt_say_(buffer, "\\u%04x", letter);
    else pt_add_(buffer, text + at, size);
    at += size;
  }
  pt_add_(buffer, "\"", 1);
  return 0;
}
static int pt_pair_(pt_buffer_ *buffer, const char *key, const char *value, const char *instead) {
  pt_say_(buffer, "\"%s\":", key);
  return pt_quote_(buffer, value ? value : instead);
}

static int pt_write_all_(int file, const void *data, size_t size) {
  const char *byte = (const char *)data;
  while (size) {
    ssize_t done = write(file, byte, size < (1u << 30) ? size : (1u << 30));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return -1;
    byte += done;
    size -= (size_t)done;
  }
  return 0;
}
static int pt_sync_folder_(void) {
  int handle = open(pt_.folder, O_RDONLY | O_CLOEXEC);
  if (handle < 0) return -1;
  int done = fsync(handle);
  close(handle);
  return done;
}
static void pt_shard_path_(char *path, size_t size) { snprintf(path, size, "%s/shard-%05u.safetensors", pt_.folder, pt_.shards); }

static void pt_forget_shard_(void) {
  for (unsigned n = 0; n < PT_COMPANIONS; n++) { free(pt_.kept[n].bytes); pt_.kept[n].bytes = NULL; }
  pt_.header.length = pt_.lines.length = pt_.entries = 0;
  pt_.header.failed = pt_.lines.failed = 0;
  pt_.shard_captures = pt_.companions = pt_.fillers = 0;
  pt_.payload = 0;
}

/* Off for good: closes everything. `discard` removes the shard that no line names. */
static void pt_end_(int discard) {
  pt_on_ = 0;
  if (pt_.shard >= 0) {
    char path[PT_PATH + 32];
    close(pt_.shard);
    pt_.shard = -1;
    pt_shard_path_(path, sizeof path);
    if (discard) unlink(path);
  }
  if (pt_.manifest >= 0) close(pt_.manifest);
  pt_.manifest = -1;
  pt_forget_shard_();
  pt_free_(&pt_.header);
  pt_free_(&pt_.lines);
#ifdef PARITY_TRACE_CUDA
  if (pt_.staging) cudaFreeHost(pt_.staging);
  pt_.staging = NULL;
  pt_.staging_size = 0;
#endif
}

/* The disk failed: cut half a line off, keep what is flushed as an unfinished trace, and go quiet. */
static int pt_disk_failed_(const char *what) {
  int code = errno;
  pt_wrong_("%s in %.300s: %s; %llu captures were written before", what, pt_.folder, strerror(code),
            (unsigned long long)pt_.written_captures);
  int cut = pt_.manifest < 0 || ftruncate(pt_.manifest, (off_t)pt_.manifest_length) == 0;
  pt_end_(cut);
  return -1;
}

/* Appends lines (each ending in a newline, without its chain) to the manifest, chained. */
static int pt_append_(const char *lines, size_t length, int sync) {
  pt_buffer_ out;
  memset(&out, 0, sizeof out);
  uint32_t chain = pt_.chain;
  while (length) {
    const char *newline = (const char *)memchr(lines, '\n', length);
    size_t size = (size_t)(newline - lines) + 1, from = out.length;
    pt_add_(&out, lines, size - 2); /* without the brace and the newline */
    pt_add_(&out, ",\"chain\":", 9);
    if (out.failed) break;
    chain = pt_crc_(chain, out.text + from, out.length - from);
    from = out.length;
    pt_say_(&out, "%lu}\n", (unsigned long)chain);
    if (out.failed) break;
    chain = pt_crc_(chain, out.text + from, out.length - from);
    lines += size;
    length -= size;
  }
  if (out.failed) { pt_free_(&out); errno = ENOMEM; return pt_disk_failed_("no memory"); }
  if (pt_write_all_(pt_.manifest, out.text, out.length) || (sync && fsync(pt_.manifest))) {
    pt_free_(&out);
    return pt_disk_failed_("the manifest cannot be written");
  }
  pt_.chain = chain;
  pt_.manifest_length += out.length;
  pt_free_(&out);
  return 0;
}

static int pt_flush_now_(void) {
  if (pt_.shard < 0) return 0;
  size_t room = pt_.room * PT_ENTRY;
  char *header = (char *)malloc(8 + room);
  if (!header || pt_.header.failed || pt_.lines.failed || pt_.header.length + 2 > room) {
    free(header);
    errno = ENOMEM;
    return pt_disk_failed_("no memory");
  }
  memset(header + 8, ' ', room);
  for (int n = 0; n < 8; n++) header[n] = (char)((uint64_t)room >> 8 * n);
  header[8] = '{';
  memcpy(header + 9, pt_.header.text, pt_.header.length);
  header[9 + pt_.header.length] = '}';
  int bad = lseek(pt_.shard, 0, SEEK_SET) < 0 || pt_write_all_(pt_.shard, header, 8 + room) || fsync(pt_.shard);
  free(header);
  if (bad) return pt_disk_failed_("a shard cannot be written");
  if (pt_sync_folder_()) return pt_disk_failed_("the folder cannot be flushed");
  if (pt_append_(pt_.lines.text, pt_.lines.length, 1)) return -1;
  close(pt_.shard);
  pt_.shard = -1;
  pt_.shards++;
  pt_.written_captures += pt_.shard_captures;
  pt_forget_shard_();
  pt_.flushed = pt_seconds_();
  return 0;
}

static int pt_make_folders_(char *path) {
  for (char *at = path + 1; *at; at++)
    if (*at == '/') {
      *at = 0;
      int bad = mkdir(path, 0777) && errno != EEXIST;
      *at = '/';
      if (bad) return -1;
    }
  return mkdir(path, 0777) && errno != EEXIST ? -1 : 0;
}

static int pt_claim_(void) {
  char path[PT_PATH + 32];
  if (pt_make_folders_(pt_.folder)) return -1;
  snprintf(path, sizeof path, "%s/manifest.jsonl", pt_.folder);
  /* Exclusive: of two processes that were given one folder, the second stops here. */
  pt_.manifest = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  return pt_.manifest < 0 ? -1 : 0;
}

static int pt_header_(pt_buffer_ *line, const pt_run *run) {
  const char *name = run->recipe ? run->recipe : "unknown";
  const char *parts[6][2];
  const char *keys[6] = {"weights", "activations", "compute", "accumulate", "kv_cache", "residual"};
  const char *values[6];
  int bad = 0;
  values[0] = run->weights; values[1] = run->activations; values[2] = run->compute;
  values[3] = run->accumulate; values[4] = run->kv_cache; values[5] = run->residual;
  if (run->layers < 0 || (run->request_count && !run->requests)) return pt_wrong_("a run of %d layers", run->layers);
  pt_say_(line, "{\"kind\":\"header\",\"format\":\"parity-trace\",\"version\":1,\"run\":{");
  bad |= pt_pair_(line, "family", run->family, "torch");
  pt_say_(line, ",");
  bad |= pt_pair_(line, "model", run->model, "unknown");
  pt_say_(line, ",\"layers\":%d,\"request_names\":[", run->layers);
  for (size_t n = 0; n < run->request_count; n++) {
    if (n) pt_say_(line, ",");
    bad |= pt_quote_(line, run->requests[n].name ? run->requests[n].name : "");
  }
  pt_say_(line, "],\"requests\":[");
  for (size_t n = 0; n < run->request_count; n++) {
    pt_say_(line, n ? ",[" : "[");
    for (size_t k = 0; k < run->requests[n].count; k++) {
      if (!run->requests[n].ids || run->requests[n].ids[k] < 0) return pt_wrong_("request %zu: id %zu is negative", n, k);
      pt_say_(line, k ? ",%lld" : "%lld", (long long)run->requests[n].ids[k]);
    }
    pt_say_(line, "]");
  }
  pt_say_(line, "],\"recipe\":{");
  bad |= pt_pair_(line, "name", name, name);
  for (int n = 0; n < 6; n++) {
    parts[n][0] = keys[n];
    parts[n][1] = values[n] ? values[n] : name;
    pt_say_(line, ",");
    bad |= pt_pair_(line, parts[n][0], parts[n][1], name);
  }
  pt_say_(line, "},\"lineage\":{");
  bad |= pt_pair_(line, "root", run->lineage_root, "unknown");
  pt_say_(line, ",\"conversions\":[");
  for (size_t n = 0; n < run->conversion_count; n++) {
    if (n) pt_say_(line, ",");
    bad |= pt_quote_(line, run->conversions[n] ? run->conversions[n] : "");
  }
  pt_say_(line, "]},\"environment\":{\"python\":\"none\",\"torch\":\"none\",\"triton\":null,\"transformers\":null,");
  bad |= pt_pair_(line, "platform", run->platform, "unknown");
  pt_say_(line, ",");
  bad |= pt_pair_(line, "cpu_capability", run->cpu_capability, "unknown");
  pt_say_(line, ",");
  bad |= pt_pair_(line, "device", run->device, "cpu");
  pt_say_(line, ",\"threads\":%d,\"interpreted\":false},\"declared\":[", run->threads > 0 ? run->threads : 0);
  for (size_t n = 0; n < run->declared_count; n++) {
    const char *stage = run->declared[n].stage;
    int known = 0;
    for (int k = 0; stage && pt_stages_[k][0]; k++) known |= !strcmp(stage, pt_stages_[k][0]);
    if (!known || run->declared[n].layer < -1) return pt_wrong_("declared site %zu: no such stage or layer", n);
    if (run->declared[n].layer < 0) pt_say_(line, n ? ",[null,\"%s\"]" : "[null,\"%s\"]", stage);
    else pt_say_(line, n ? ",[%d,\"%s\"]" : "[%d,\"%s\"]", run->declared[n].layer, stage);
  }
  pt_say_(line, "],\"hyper\":{");
  for (size_t n = 0; n < run->hyper_count; n++) {
    double value = run->hyper[n].value;
    for (size_t k = 0; k < n; k++) bad |= !strcmp(run->hyper[k].key, run->hyper[n].key);
    if (n) pt_say_(line, ",");
    bad |= pt_quote_(line, run->hyper[n].key);
    if (isfinite(value)) pt_say_(line, ":%.17g", value);
    else pt_say_(line, value != value ? ":\"nan\"" : value > 0 ? ":\"inf\"" : ":\"-inf\"");
  }
  pt_say_(line, "},\"flags\":{");
  for (size_t n = 0; n < run->flag_count; n++) {
    for (size_t k = 0; k < n; k++) bad |= !strcmp(run->flags[k].key, run->flags[n].key);
    if (n) pt_say_(line, ",");
    bad |= pt_quote_(line, run->flags[n].key);
    pt_say_(line, ":");
    bad |= pt_quote_(line, run->flags[n].value ? run->flags[n].value : "");
  }
  pt_say_(line, "}}}\n");
  if (bad) return pt_wrong_("a key twice among hyper or flags");
  if (line->failed || line->length > PT_LINE - 64) return pt_wrong_("a run that takes more than 16 MiB, or no memory for it");
  return 0;
}

void pt_run_init(pt_run *run) { memset(run, 0, sizeof *run); }

void pt_capture_init(pt_capture *capture, const char *stage, int layer, pt_dtype dtype, int axes, const size_t *shape) {
  memset(capture, 0, sizeof *capture);
  capture->stage = stage;
  capture->layer = layer;
  capture->dtype = dtype;
  capture->axes = axes;
  for (int n = 0; n < axes && n < PT_MAX_AXES; n++) capture->shape[n] = shape[n];
}

const char *pt_error(void) { return pt_.error; }
size_t pt_refused(void) { return pt_.refused; }

/* State of a step; kept apart since it goes into every line. */
static char pt_phase_[8] = "prefill";
static int pt_number_of_step_, pt_chunk_;

int pt_open(const char *folder, const pt_run *run) {
  const char *asked = getenv("PARITY_TRACE"), *named = getenv("PARITY_CAPTURE");
  int chosen = folder != NULL;
  if (asked && (!strcmp(asked, "off") || !strcmp(asked, "0"))) return 0;
  if (!chosen) folder = named;
  if (!folder || !folder[0]) return 0;
  pt_lock_();
  if (pt_on_) return pt_unlock_(pt_wrong_("a trace is open already: one a process"));
  memset(&pt_.error, 0, sizeof pt_.error);
  pt_.refused = 0;
  pt_.manifest = pt_.shard = -1;
  pt_.manifest_length = pt_.captures = pt_.written_captures = 0;
  pt_.chain = 0;
  pt_.shards = 0;
  pt_forget_shard_();
  pt_.pid = (long)getpid();
  const union { uint16_t word; unsigned char byte[2]; } order = {1};
  if (!order.byte[0]) return pt_unlock_(pt_wrong_("a big-endian machine: the format is little-endian"));
  if (strlen(folder) > PT_PATH - 64) return pt_unlock_(pt_wrong_("the folder's name has %zu bytes", strlen(folder)));
  pt_buffer_ line;
  memset(&line, 0, sizeof line);
  if (!run || pt_header_(&line, run)) { pt_free_(&line); return pt_unlock_(pt_wrong_("no run")); }
  pt_make_table_();
  snprintf(pt_.folder, sizeof pt_.folder, "%s", folder);
  int bad = pt_claim_();
  if (bad && errno == EEXIST && !chosen) { /* several processes with one PARITY_CAPTURE: a folder inside it for each */
    snprintf(pt_.folder, sizeof pt_.folder, "%s/process-%ld", folder, pt_.pid);
    bad = pt_claim_();
  }
  if (bad) {
    pt_wrong_(errno == EEXIST ? "%.300s holds a trace already%.0s" : "%.300s: %s", pt_.folder, strerror(errno));
    pt_free_(&line);
    return pt_unlock_(-1);
  }
  (void)flock(pt_.manifest, LOCK_EX | LOCK_NB); /* not every file system has locks */
  pt_.layers = run->layers;
  pt_.requests = run->request_count;
  pt_.room = 3 * run->declared_count; /* a payload a declared site, and the row tensors that sites share */
  if (pt_.room < PT_ROOM) pt_.room = PT_ROOM;
  if (pt_.room > PT_MOST) pt_.room = PT_MOST;
  bad = pt_append_(line.text, line.length, 1);
  pt_free_(&line);
  if (bad || pt_sync_folder_()) return pt_unlock_(bad ? -1 : pt_disk_failed_("the folder cannot be flushed"));
  pt_.flushed = pt_seconds_();
  strcpy(pt_phase_, "prefill");
  pt_number_of_step_ = pt_chunk_ = 0;
  pt_on_ = 1;
  return pt_unlock_(0);
}

/* 1 when this process is the one that opened the trace. */
static int pt_ours_(void) { return pt_on_ && pt_.pid == (long)getpid(); }

int pt_step_(const char *phase, int step, int chunk) {
  pt_lock_();
  if (!pt_ours_()) return pt_unlock_(-1);
  int decode = phase && !strcmp(phase, "decode");
  if ((!decode && (!phase || strcmp(phase, "prefill"))) || step < 0 || chunk < 0)
    return pt_unlock_(pt_refuse_("a step", "phase is prefill or decode, step and chunk are at least 0"));
  if (pt_flush_now_()) return pt_unlock_(-1);
  strcpy(pt_phase_, decode ? "decode" : "prefill");
  pt_number_of_step_ = step;
  pt_chunk_ = chunk;
  char line[128];
  int size = snprintf(line, sizeof line, "{\"kind\":\"step\",\"phase\":\"%s\",\"step\":%d,\"chunk\":%d}\n", pt_phase_, step, chunk);
  return pt_unlock_(pt_append_(line, (size_t)size, 0));
}

/* Writes a payload to the open shard and enters it into the header; rows of `stride` bytes, `size` of them used. */
static int pt_store_(const char *name, const char *code, size_t rows, const char *dims, const void *data, size_t size,
                     size_t stride, uint32_t *crc) {
  const char *byte = (const char *)data;
  *crc = 0;
  if (stride == size || rows <= 1) {
    size_t total = rows * size;
    *crc = pt_crc_(0, byte, total);
    if (pt_write_all_(pt_.shard, byte, total)) return -1;
  } else {
    for (size_t n = 0; n < rows; n++) {
      *crc = pt_crc_(*crc, byte + n * stride, size);
      if (pt_write_all_(pt_.shard, byte + n * stride, size)) return -1;
    }
  }
  uint64_t end = pt_.payload + (uint64_t)rows * size;
  pt_say_(&pt_.header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}", pt_.entries ? "," : "", name,
          code, dims, (unsigned long long)pt_.payload, (unsigned long long)end);
  pt_.payload = end;
  pt_.entries++;
  return 0;
}

/* A tensor that no line names fills the gap before a payload that must be aligned. */
static int pt_align_(size_t size) {
  static const char zeros[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  size_t gap = (size_t)((size - pt_.payload % size) % size);
  char name[32], dims[24];
  uint32_t crc;
  if (!gap) return 0;
  snprintf(name, sizeof name, "fill.%u", pt_.fillers++);
  snprintf(dims, sizeof dims, "%zu", gap);
  return pt_store_(name, "U8", 1, dims, zeros, gap, gap, &crc);
}

/* One field of `rows`: a constant, a range, or a tensor that captures of a shard share. */
static int pt_field_(pt_buffer_ *line, const char *key, const void *values, int wide, size_t count) {
  const int32_t *narrow = (const int32_t *)values;
  const int64_t *broad = (const int64_t *)values;
  int constant = 1, range = 1;
  int64_t first = !count ? 0 : wide ? broad[0] : (int64_t)narrow[0];
  for (size_t n = 0; n < count && (constant || range); n++) {
    int64_t value = wide ? broad[n] : (int64_t)narrow[n];
    constant &= value == first;
    range &= value == first + (int64_t)n;
  }
  if (constant) { pt_say_(line, "\"%s\":{\"constant\":%lld}", key, (long long)first); return 0; }
  if (range) { pt_say_(line, "\"%s\":{\"start\":%lld,\"count\":%zu}", key, (long long)first, count); return 0; }
  size_t width = wide ? 8 : 4, size = count * width;
  uint32_t crc = pt_crc_(0, values, size);
  unsigned number = pt_.companions;
  int found = 0;
  for (unsigned n = 0; n < PT_COMPANIONS && !found; n++) {
    pt_companion_ *kept = &pt_.kept[n];
    if (kept->bytes && kept->crc == crc && kept->size == size && kept->wide == wide && !memcmp(kept->bytes, values, size)) {
      number = kept->number;
      found = 1;
    }
  }
  if (!found) {
    char name[32], dims[32];
    pt_companion_ *keep = &pt_.kept[pt_.companions % PT_COMPANIONS];
    snprintf(name, sizeof name, "rows.%u", pt_.companions++);
    snprintf(dims, sizeof dims, "%zu", count);
    if (pt_align_(width) || pt_store_(name, wide ? "I64" : "I32", count, dims, values, width, width, &crc)) return -1;
    free(keep->bytes);
    keep->bytes = malloc(size);
    if (keep->bytes) memcpy(keep->bytes, values, size);
    keep->size = size;
    keep->wide = wide;
    keep->number = number;
    keep->crc = crc;
  }
  pt_say_(line, "\"%s\":{\"tensor\":\"rows.%u\",\"crc\":%lu}", key, number, (unsigned long)crc);
  return 0;
}

/* NULL when the capture can be written; else why not. Everything that a reader would refuse a trace for. */
static const char *pt_flaw_(const pt_capture *c, const char **axes, size_t *row_bytes) {
  *axes = NULL;
  if (!c || !c->stage) return "no stage";
  for (int n = 0; pt_stages_[n][0]; n++)
    if (!strcmp(c->stage, pt_stages_[n][0])) *axes = pt_stages_[n][1];
  if (!*axes) return "the vocabulary has no such stage";
  if (c->axes != (int)strlen(*axes)) return "another number of axes than the vocabulary says";
  if (c->layer < -1 || c->layer >= pt_.layers) return "a layer that the model does not have (-1: outside the layers)";
  if ((int)c->dtype < 0 || c->dtype > PT_BOOL) return "no dtype";
  size_t rows = c->shape[0], size = pt_dtypes_[c->dtype].size;
  if (rows > PT_ROWS) return "more than 2^24 rows";
  for (int n = 1; n < c->axes; n++) {
    if (!c->shape[n]) return "a size of 0 behind the rows";
    if (c->shape[n] > ((size_t)1 << 46) / size) return "a shape beyond all memory";
    size *= c->shape[n];
  }
  if (rows && size > ((size_t)1 << 46) / rows) return "a shape beyond all memory";
  if (c->row_stride && c->row_stride < size) return "rows that overlap (row_stride)";
  *row_bytes = size;
  int expert_rows = (*axes)[0] == 'R';
  if ((c->slot != NULL) != expert_rows || (c->expert != NULL) != expert_rows)
    if (rows || !expert_rows) return "slot and expert belong to expert rows, and to them only";
  if (!c->request && (c->one_request < 0 || (rows && (size_t)c->one_request >= pt_.requests))) return "a request that the run does not have";
  if (!c->position && c->first_position < 0) return "a negative position";
  for (size_t n = 0; n < rows; n++) {
    if (c->request && (c->request[n] < 0 || (size_t)c->request[n] >= pt_.requests)) return "a request that the run does not have";
    if (c->position && c->position[n] < 0) return "a negative position";
    if (c->row && c->row[n] < 0) return "a negative row";
    if (expert_rows && (c->slot[n] < 0 || c->expert[n] < 0)) return "a negative slot or expert";
  }
  if (c->tile_m < 0) return "a negative tile";
  for (size_t n = 0; n < c->expert_offset_count; n++)
    if (!c->expert_offsets || (n ? c->expert_offsets[n] < c->expert_offsets[n - 1] : c->expert_offsets[0] != 0))
      return "expert_offsets that do not begin at 0 or that fall";
  if (c->expert_offset_count > 100000) return "more than 100,000 experts";
  for (int n = 0; n < 3; n++) if (c->grid[n] < 0) return "a negative grid";
  if ((c->basis && strlen(c->basis) > 200) || (c->variant && strlen(c->variant) > 200)) return "a basis or variant of over 200 bytes";
  return NULL;
}

static int pt_open_shard_(void) {
  char path[PT_PATH + 32];
  pt_shard_path_(path, sizeof path);
  pt_.shard = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (pt_.shard < 0) return -1;
  return lseek(pt_.shard, (off_t)(8 + pt_.room * PT_ENTRY), SEEK_SET) < 0 ? -1 : 0;
}

static int pt_rows_(pt_buffer_ *line, const pt_capture *c, int expert_rows) {
  size_t rows = c->shape[0];
  pt_say_(line, ",\"rows\":{");
  if (!c->request) pt_say_(line, "\"request\":{\"constant\":%ld}", (long)c->one_request);
  else if (pt_field_(line, "request", c->request, 0, rows)) return -1;
  pt_say_(line, ",");
  if (c->position) { if (pt_field_(line, "position", c->position, 1, rows)) return -1; }
  else if (rows) pt_say_(line, "\"position\":{\"start\":%lld,\"count\":%zu}", (long long)c->first_position, rows);
  else pt_say_(line, "\"position\":{\"constant\":0}");
  if (expert_rows) {
    pt_say_(line, ",");
    if (pt_field_(line, "slot", c->slot, 0, rows)) return -1;
    pt_say_(line, ",");
    if (pt_field_(line, "expert", c->expert, 0, rows)) return -1;
  }
  if (c->row) {
    pt_say_(line, ",");
    if (pt_field_(line, "row", c->row, 1, rows)) return -1;
  }
  pt_say_(line, "}");
  return 0;
}

int pt_flush_(void) {
  pt_lock_();
  return pt_unlock_(pt_ours_() ? pt_flush_now_() : -1);
}

/* With the lock held, which it lets go of. */
static int pt_put_held_(const pt_capture *c, const void *data) {
  const char *axes;
  size_t row_bytes = 0;
  const char *flaw = pt_flaw_(c, &axes, &row_bytes);
  if (!flaw && !data && c->shape[0]) flaw = "no data";
  pt_buffer_ words;
  memset(&words, 0, sizeof words);
  if (!flaw && ((c->basis && pt_quote_(&words, c->basis)) || (c->variant && pt_quote_(&words, c->variant))))
    flaw = "a basis or variant that is no UTF-8";
  pt_free_(&words);
  if (flaw) return pt_unlock_(pt_refuse_(c ? c->stage : NULL, flaw));
  if (pt_.shard >= 0 && (pt_.entries + 12 > pt_.room || pt_seconds_() - pt_.flushed >= PT_FLUSH_SECONDS) && pt_flush_now_())
    return pt_unlock_(-1);
  if (pt_.shard < 0 && pt_open_shard_()) return pt_unlock_(pt_disk_failed_("a shard cannot be made"));
  size_t size = pt_dtypes_[c->dtype].size, from = pt_.lines.length;
  char dims[200], name[40];
  int used = 0;
  for (int n = 0; n < c->axes; n++) used += snprintf(dims + used, sizeof dims - (size_t)used, n ? ",%zu" : "%zu", c->shape[n]);
  snprintf(name, sizeof name, "capture.%llu", (unsigned long long)pt_.captures);
  uint32_t crc = 0;
  if (pt_align_(size) ||
      pt_store_(name, pt_dtypes_[c->dtype].code, c->shape[0], dims, data, row_bytes, c->row_stride ? c->row_stride : row_bytes, &crc))
    return pt_unlock_(pt_disk_failed_("a shard cannot be written"));
  pt_buffer_ *line = &pt_.lines;
  pt_say_(line, "{\"kind\":\"capture\",\"number\":%llu,\"stage\":\"%s\",\"layer\":", (unsigned long long)pt_.captures, c->stage);
  if (c->layer < 0) pt_say_(line, "null");
  else pt_say_(line, "%d", c->layer);
  pt_say_(line, ",\"phase\":\"%s\",\"step\":%d,\"chunk\":%d,\"axes\":[", pt_phase_, pt_number_of_step_, pt_chunk_);
  for (int n = 0; axes[n]; n++) pt_say_(line, n ? ",\"%c\"" : "\"%c\"", axes[n]);
  pt_say_(line, "],\"dtype\":\"%s\",\"shape\":[%s],\"shard\":\"shard-%05u.safetensors\",\"tensor\":\"%s\",\"crc\":%lu",
          pt_dtypes_[c->dtype].name, dims, pt_.shards, name, (unsigned long)crc);
  if (pt_rows_(line, c, axes[0] == 'R')) return pt_unlock_(pt_disk_failed_("a shard cannot be written"));
  pt_say_(line, ",\"geometry\":{");
  if (c->tile_m) pt_say_(line, "\"tile_m\":%lld%s", (long long)c->tile_m, c->expert_offset_count ? "," : "");
  if (c->expert_offset_count) {
    pt_say_(line, "\"expert_offsets\":[");
    for (size_t n = 0; n < c->expert_offset_count; n++) pt_say_(line, n ? ",%lld" : "%lld", (long long)c->expert_offsets[n]);
    pt_say_(line, "]");
  }
  pt_say_(line, "}");
  if (c->grid[0] || c->grid[1] || c->grid[2])
    pt_say_(line, ",\"launch\":{\"grid\":[%lld,%lld,%lld]}", (long long)c->grid[0], (long long)c->grid[1], (long long)c->grid[2]);
  if (c->partial) pt_say_(line, ",\"reduction\":\"partial\"");
  if (c->draft) pt_say_(line, ",\"model\":\"draft\"");
  if (c->basis) { pt_say_(line, ",\"basis\":"); pt_quote_(line, c->basis); }
  if (c->variant) { pt_say_(line, ",\"variant\":"); pt_quote_(line, c->variant); }
  pt_say_(line, "}\n");
  if (line->failed || pt_.header.failed || line->length - from > PT_LINE - 64) {
    errno = ENOMEM;
    return pt_unlock_(pt_disk_failed_("no memory"));
  }
  pt_.captures++;
  pt_.shard_captures++;
  if (pt_.payload >= PT_FLUSH_BYTES || pt_seconds_() - pt_.flushed >= PT_FLUSH_SECONDS) return pt_unlock_(pt_flush_now_());
  return pt_unlock_(0);
}

int pt_put_(const pt_capture *c, const void *data) {
  pt_lock_();
  return pt_ours_() ? pt_put_held_(c, data) : pt_unlock_(-1);
}

int pt_close(int complete) {
  if (!pt_on_) return pt_.error[0] ? -1 : 0;
  pt_lock_();
  if (!pt_ours_()) return pt_unlock_(-1);
  int bad = pt_flush_now_();
  if (!bad && complete) {
    char line[96];
    int size = snprintf(line, sizeof line, "{\"kind\":\"end\",\"captures\":%llu,\"shards\":%u}\n",
                        (unsigned long long)pt_.written_captures, pt_.shards);
    bad = pt_append_(line, (size_t)size, 1);
  }
  if (!bad) pt_end_(0);
  return pt_unlock_(bad || pt_.error[0] ? -1 : 0);
}

#ifdef PARITY_TRACE_CUDA
int pt_put_device_(const pt_capture *c, const void *device, cudaStream_t stream) {
  const char *axes;
  size_t row_bytes = 0;
  pt_lock_();
  if (!pt_ours_()) return pt_unlock_(-1);
  const char *flaw = pt_flaw_(c, &axes, &row_bytes);
  enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (!flaw && (cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone))
    flaw = "the stream is being captured into a graph";
  size_t total = flaw ? 0 : c->shape[0] * row_bytes;
  if (!flaw && total > pt_.staging_size) {
    if (pt_.staging) cudaFreeHost(pt_.staging);
    pt_.staging = NULL;
    pt_.staging_size = 0;
    if (cudaMallocHost(&pt_.staging, total) != cudaSuccess) flaw = "no pinned memory for the copy";
    else pt_.staging_size = total;
  }
  if (!flaw && total) {
    size_t stride = c->row_stride ? c->row_stride : row_bytes;
    cudaError_t code = stride == row_bytes
      ? cudaMemcpyAsync(pt_.staging, device, total, cudaMemcpyDeviceToHost, stream)
      : cudaMemcpy2DAsync(pt_.staging, row_bytes, device, stride, row_bytes, c->shape[0], cudaMemcpyDeviceToHost, stream);
    if (code != cudaSuccess || cudaStreamSynchronize(stream) != cudaSuccess) flaw = "the copy from the device failed";
  }
  if (flaw) {
    (void)cudaGetLastError(); /* the engine must not take our error for its own */
    return pt_unlock_(pt_refuse_(c ? c->stage : NULL, flaw));
  }
  pt_capture dense = *c;
  dense.row_stride = 0;
  return pt_put_held_(&dense, pt_.staging);
}
#endif

#ifdef __cplusplus
}
#endif
#endif /* PARITY_TRACE_IMPLEMENTATION */
