/* SPDX-License-Identifier: Apache-2.0
 *
 * A program in BUSE's style: a memory disk with faults to order.
 *
 *   ramdisk TARGET [LETTERS]    letters switch a feature on: f flush, t trim, r read-only, b a size in blocks, d say when done,
 *                               s the first write takes eleven seconds
 *
 * Reads of the blocks 1, 2 and 3 fail, each with another way of saying EIO. A write to block 4 fails with ENOSPC. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buse.h"

enum { kBlock = 4096, kBlocks = 8192 };

static char *data;
static int slow;
static int writes;

static int ram_read(void *buf, u_int32_t len, u_int64_t offset, void *userdata) {
  (void)userdata;
  const u_int64_t block = offset / kBlock;
  if (block == 1) return EIO;
  if (block == 2) return htonl(EIO);
  if (block == 3) return -EIO;
  memcpy(buf, data + offset, len);
  return 0;
}

static int ram_write(const void *buf, u_int32_t len, u_int64_t offset, void *userdata) {
  (void)userdata;
  if (offset / kBlock == 4) return htonl(ENOSPC);
  if (slow) sleep(11);
  slow = 0;
  memcpy(data + offset, buf, len);
  ++writes;
  return 0;
}

static int ram_flush(void *userdata) {
  ++*(int *)userdata;
  return 0;
}

static int ram_trim(u_int64_t from, u_int32_t len, void *userdata) {
  (void)userdata;
  memset(data + from, 0x55, len);
  return 0;
}

static void ram_disc(void *userdata) { printf("disconnected after %d writes, %d flushes\n", writes, *(int *)userdata); }

int main(int argc, char **argv) {
  const char *letters = argc > 2 ? argv[2] : "";
  int flushes = 0;
  struct buse_operations operations = {.read = ram_read, .write = ram_write};
  if (argc < 2) {
    fprintf(stderr, "usage: %s TARGET [LETTERS]\n", argv[0]);
    return 2;
  }
  if (strchr(letters, 'f')) operations.flush = ram_flush;
  if (strchr(letters, 't')) operations.trim = ram_trim;
  if (strchr(letters, 'r')) operations.write = NULL;
  if (strchr(letters, 'd')) operations.disc = ram_disc;
  slow = strchr(letters, 's') != NULL;
  if (strchr(letters, 'b')) {
    operations.blksize = kBlock;
    operations.size_blocks = kBlocks;
  } else {
    operations.size = (u_int64_t)kBlock * kBlocks;
  }
  data = calloc(kBlocks, kBlock);
  const int result = buse_main(argv[1], &operations, &flushes);
  free(data);
  return result;
}
