// SPDX-License-Identifier: Apache-2.0
//
// Runs a fuzz target over files, without a fuzzer: the `main` of the corpus tests. A folder means all files in it.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/target.h"

namespace {

void Run(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::fprintf(stderr, "%s\n", path.c_str());
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  // Cut at every byte, as connections are.
  for (size_t cut = 0; cut < bytes.size() && cut < 600; ++cut) {
    const std::vector<char> part(bytes.begin(), bytes.begin() + cut);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(part.data()), cut);
  }
}

}  // namespace

int main(int argc, char** argv) {
  int files = 0;
  for (int i = 1; i < argc; ++i) {
    if (!std::filesystem::is_directory(argv[i])) {
      Run(argv[i]);
      ++files;
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      Run(entry.path());
      ++files;
    }
  }
  std::fprintf(stderr, "%d files\n", files);
  return files > 0 ? 0 : 1;
}
