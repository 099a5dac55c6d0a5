// SPDX-License-Identifier: Apache-2.0
//
// Parking: how a system call lets others run in its thread while it waits.

#ifndef BUSE_PARKING_H_
#define BUSE_PARKING_H_

#include <sys/types.h>

#include <cstdint>

#include "buse/device.h"

namespace buse {

// Used by one thread.
class Parking {
 public:
  // Of the fiber that calls; null outside of one: then there is nobody to run meanwhile.
  static Parking* Current() { return current_; }

  // As pread and pwritev2, but an error is returned as its number with a minus before it.
  virtual ssize_t Read(int fd, Bytes out, uint64_t offset) = 0;
  virtual ssize_t Write(int fd, ConstBytes in, uint64_t offset, int rwf_flags) = 0;

 protected:
  ~Parking() = default;

  static void SetCurrent(Parking* parking) { current_ = parking; }

 private:
  static inline thread_local Parking* current_ = nullptr;
};

}  // namespace buse

#endif  // BUSE_PARKING_H_
