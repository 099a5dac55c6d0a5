// SPDX-License-Identifier: Apache-2.0
//
// Judges a whole transmission: what a client said, what the server answered, and what a disk of bytes would have made of it.
// Written from the specification, apart from the server's own code.

#ifndef TESTS_FUZZ_JUDGE_H_
#define TESTS_FUZZ_JUDGE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace buse::testing {

struct Dialogue {
  enum class Style { kSimple, kStructured, kExtended };

  Style style = Style::kSimple;
  bool allocation = false;      // base:allocation was selected, and has the ID 1
  bool cache = false;           // buse:cache was selected, and has the ID 2
  uint64_t resize_limit = 0;    // 0: RESIZE is not offered
  std::string disk;             // what it held before; the size of the export
  std::vector<bool> unflushed;  // of its bytes: written before, and perhaps not flushed; as long as the disk
  std::string requests;         // all that the client sent before it closed its side
  bool in_step = false;         // each request was answered before the next was taken
  std::string replies;          // all that the server sent
  bool broken_off = false;      // the server ended it with an error
};

// A client that sends a WRITE before the answer to a READ of the same bytes has come may be answered with either: such bytes
// are not compared unless `in_step`.
//
// The first breach of the specification, or the first wrong byte; empty if there is none. Leaves in `disk` and `unflushed` what
// they are afterwards. The server must answer requests in their order, and take payloads of up to 32 MiB.
std::string Judge(Dialogue& dialogue);

}  // namespace buse::testing

#endif  // TESTS_FUZZ_JUDGE_H_
