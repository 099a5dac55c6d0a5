// SPDX-License-Identifier: Apache-2.0

#include "buse/lent_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "buse/io.h"

namespace buse {

LentFiles::~LentFiles() {
  for (Mapping& mapping : mappings_) Unmap(mapping);
}

void LentFiles::Unmap(Mapping& mapping) {
  if (mapping.memory != nullptr) munmap(mapping.memory, mapping.size);
  mapping.memory = nullptr;
}

// Another open file description: the lock of the device's own would last as long as the mapping.
void LentFiles::Map(Mapping& mapping) {
  const UniqueFd file(open(absl::StrCat("/proc/self/fd/", mapping.fd).c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  const off_t size = file.valid() ? lseek(file.get(), 0, SEEK_END) : -1;
  mapping.size = UINT64_MAX;  // not to be tried again
  if (size <= 0) return;
  void* const memory = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, file.get(), 0);
  mapping.size = static_cast<uint64_t>(size);
  mapping.memory = memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

ConstBytes LentFiles::Lend(const FileRange& range, size_t length, bool may_move) {
  auto mapping = std::find_if(mappings_.begin(), mappings_.end(), [&](const Mapping& other) { return other.fd == range.fd; });
  if (mapping == mappings_.end()) {
    mapping = mappings_.insert(mapping, {.fd = range.fd});
    Map(*mapping);
  } else if (range.offset + length > mapping->size && may_move) {
    Unmap(*mapping);
    Map(*mapping);
  }
  if (mapping->memory == nullptr || range.offset + length > mapping->size) return {};
  return {mapping->memory + range.offset, length};
}

}  // namespace buse
