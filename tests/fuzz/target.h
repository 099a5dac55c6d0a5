// SPDX-License-Identifier: Apache-2.0
//
// What the fuzz targets share.

#ifndef TESTS_FUZZ_TARGET_H_
#define TESTS_FUZZ_TARGET_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace buse::testing {

// Ends the process if something is wrong, which a fuzzer and the corpus test take for a finding.
inline void MustBeRight(const std::string& wrong) {
  if (wrong.empty()) return;
  std::fprintf(stderr, "found: %s\n", wrong.c_str());
  std::abort();
}

}  // namespace buse::testing

#endif  // TESTS_FUZZ_TARGET_H_
