/* SPDX-License-Identifier: Apache-2.0
 *
 * The interface of BUSE (2013), for programs written to it: they compile and link unchanged.
 *
 * What such a program gains: flush, FUA and TRIM are announced only where there is a callback for them; a callback that fails
 * fails that request alone; several clients, sockets besides /dev/nbdN, disks over 2 TiB, and a clean end on SIGINT and
 * SIGTERM.
 */
#ifndef BUSE_H_INCLUDED
#define BUSE_H_INCLUDED

#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Callbacks are made one at a time, from threads of the server's own. They return 0, or an errno value: plain, negative, or in
 * network byte order. `userdata` is what buse_main was given. Lengths and offsets are in bytes and lie within the device. */
struct buse_operations {
  /* Fills `buf`. Needed. */
  int (*read)(void *buf, u_int32_t len, u_int64_t offset, void *userdata);
  /* Absent: the device is read-only. */
  int (*write)(const void *buf, u_int32_t len, u_int64_t offset, void *userdata);
  /* Called once before buse_main returns, after the last of the other callbacks. */
  void (*disc)(void *userdata);
  /* Makes durable what was written. Absent: flushes are not asked for. */
  int (*flush)(void *userdata);
  /* The bytes are no longer needed; reads may return anything. Absent: nobody asks. */
  int (*trim)(u_int64_t from, u_int32_t len, void *userdata);

  /* The size: either in bytes, or in blocks of `blksize` bytes, then a power of two from 512 to 4096, to which all requests
   * are aligned. */
  u_int64_t size;
  u_int32_t blksize;
  u_int64_t size_blocks;
};

/* Serves the device until it is disconnected or a signal ends it. `dev_file` is /dev/nbdN, or an NBD URI such as
 * nbd+unix:///?socket=PATH. Returns 0, or after a message on standard error another exit code: 1 I/O trouble, 2 wrong use, 3
 * no such device, 4 the device is in use. */
int buse_main(const char *dev_file, const struct buse_operations *bop, void *userdata);

#ifdef __cplusplus
}
#endif

#endif
