/*
 * codec_tool: decodes inputs from standard input, each at once and cut at every place, and prints a line for each, for
 * spec/codec_model_spec.lua to compare with its models.
 *
 * An input: twelve numbers of 32 bits in the machine's order (bytes, kind, max, width, little, keeps, offset, adjustment, strip,
 * depth, delimiters, inner), then the bytes. Delimiters are one of the sets below. inner: kind of a second codec in a
 * chain, with the same max; 0: there is none. A line: the frames, each behind "[", the error's text, and the bytes left over.
 */
#include "codec_drive.h"

enum { INPUT_MAX = 1 << 16 };

typedef struct input {
  uint32_t size;
  int32_t kind, max, width, is_little, keeps, offset, adjustment, strip, depth, delimiters, inner;
} input;

static const char *const sets[][4] = {{"\n", "\r\n"}, {"\r\n"},           {"ab"},       {"a", "ab"},
                                      {"aa", "b"},    {"aba", "ba", "c"}, {"aab", "ab"}};

static rille_codec *make_one(const input *in, int kind) {
  int err;
  rille_codec_options o = {.kind = kind, .max = in->max, .width = in->width, .is_little = in->is_little};
  o.keeps = in->keeps;
  o.offset = in->offset;
  o.adjustment = in->adjustment;
  o.strip = in->strip;
  o.depth = in->depth;
  rille_codec *c = rille_codec_new(&o, &err);
  drive_check(c != NULL);
  for (int i = 0; kind == RILLE_CODEC_DELIMITER && i < 4 && sets[in->delimiters][i]; i++) {
    drive_check(rille_codec_add_delimiter(c, sets[in->delimiters][i], strlen(sets[in->delimiters][i])) == 0);
  }
  return c;
}

static rille_codec *make(const input *in) {
  rille_codec *outer = make_one(in, in->kind);
  if (!in->inner) return outer;
  int err;
  rille_codec *chain = rille_codec_new(&(rille_codec_options){.kind = RILLE_CODEC_CHAIN}, &err);
  rille_codec *inner = make_one(in, in->inner);
  drive_check(chain && !rille_codec_add_member(chain, outer) && !rille_codec_add_member(chain, inner));
  rille_codec_release(outer);
  rille_codec_release(inner);
  return chain;
}

static void print(const drive *d) {
  for (size_t at = 0; at < d->size;) {
    uint32_t size;
    memcpy(&size, d->text + at, 4);
    putchar('[');
    for (uint32_t i = 0; i < size; i++) {
      uint8_t byte = d->text[at + 4 + i];
      if (byte > 0x20 && byte < 0x7f && byte != '%' && byte != '[') putchar(byte);
      else printf("%%%02X", byte);
    }
    at += 4 + size;
  }
  printf(" %s %zu", rille_err_text(d->err), d->left);
}

int main(void) {
  static uint8_t bytes[INPUT_MAX];
  static drive whole, cut;
  input in;
  while (fread(&in, sizeof in, 1, stdin) == 1) {
    if (in.size > INPUT_MAX || fread(bytes, 1, in.size, stdin) != in.size) {
      fprintf(stderr, "codec_tool: an input of %u bytes is too large or not all there\n", in.size);
      return 1;
    }
    rille_codec *codec = make(&in);
    long at = drive_every_split(&whole, &cut, codec, bytes, in.size);
    if (at >= 0) {
      printf("DIFFERS (cut at %ld):", at);
      print(&cut);
      printf(" instead of ");
    }
    print(&whole);
    putchar('\n');
    rille_codec_release(codec);
  }
  return 0;
}
