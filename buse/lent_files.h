// SPDX-License-Identifier: Apache-2.0
//
// LentFiles: files mapped into memory, for a connection to send from. The kernel copies what it sends from the page cache, where a
// read would copy it twice and take a system call for each request.
//
// Only the kernel may look at the memory: bytes that cannot be read, as of a bad disk or a file that somebody cut off, are an
// error of the send (EFAULT), where the process itself would be ended by a signal. By then the client was told that the read
// succeeded, so its connection must end. What is not in the page cache is waited for within the send.

#ifndef BUSE_LENT_FILES_H_
#define BUSE_LENT_FILES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buse/device.h"

namespace buse {

// Used by one thread. A file is mapped whole, once it is first asked for. The mapping holds no lock on the file.
class LentFiles {
 public:
  LentFiles() = default;
  LentFiles(const LentFiles&) = delete;
  LentFiles& operator=(const LentFiles&) = delete;
  ~LentFiles();

  // Where `length` bytes from `range.offset` on lie; stays valid until a call with `may_move`, by which a file that has grown is
  // mapped anew. Empty: they cannot be lent, and must be read.
  ConstBytes Lend(const FileRange& range, size_t length, bool may_move);

 private:
  struct Mapping {
    int fd;
    std::byte* memory = nullptr;
    uint64_t size = 0;
  };

  static void Map(Mapping& mapping);
  static void Unmap(Mapping& mapping);

  std::vector<Mapping> mappings_;  // as many as a stack has files
};

}  // namespace buse

#endif  // BUSE_LENT_FILES_H_
